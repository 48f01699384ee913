/**
 * Formats the parameters of a suggestion in studio notation. The suffix of a name is its unit
 * (`attack_ms`, `true_peak_dbtp`). A pair is a range, a longer list is a choice.
 */
import { number } from './numbers'

export interface DisplayedParameter {
  name: string
  label: string
  value: string
  unit: string
}

interface Unit {
  symbol: string
  /** Larger units, the largest first: the smallest value that uses it, and its symbol. */
  steps?: readonly (readonly [minimum: number, symbol: string])[]
}

/** Longer suffixes come first: `m_per_s` also ends in `_s`. */
const UNITS: readonly (readonly [suffix: string, unit: Unit])[] = [
  ['db_per_oct', { symbol: 'dB/oct' }],
  ['m_per_s', { symbol: 'm/s' }],
  ['db_spl', { symbol: 'dB SPL' }],
  ['semitones', { symbol: 'st' }],
  ['degrees', { symbol: '°' }],
  ['percent', { symbol: '%' }],
  ['samples', { symbol: 'samples' }],
  ['cents', { symbol: 'ct' }],
  ['beats', { symbol: 'beats' }],
  ['steps', { symbol: 'steps' }],
  ['dbfs', { symbol: 'dBFS' }],
  ['dbtp', { symbol: 'dBTP' }],
  ['lufs', { symbol: 'LUFS' }],
  ['kbps', { symbol: 'kbit/s' }],
  ['bars', { symbol: 'bars' }],
  ['bits', { symbol: 'bit' }],
  ['days', { symbol: 'days' }],
  ['dba', { symbol: 'dBA' }],
  ['bpm', { symbol: 'bpm' }],
  ['lsb', { symbol: 'LSB' }],
  ['ohm', { symbol: 'Ω', steps: [[1e6, 'MΩ'], [1e3, 'kΩ']] }], // biome-ignore format: a table
  ['ips', { symbol: 'ips' }],
  ['rpm', { symbol: 'rpm' }],
  ['min', { symbol: 'min' }],
  ['db', { symbol: 'dB' }],
  ['hz', { symbol: 'Hz', steps: [[1e3, 'kHz']] }],
  ['ms', { symbol: 'ms', steps: [[1e3, 's']] }],
  ['cm', { symbol: 'cm' }],
  ['lu', { symbol: 'LU' }],
  ['s', { symbol: 's' }],
  ['h', { symbol: 'h' }],
  ['m', { symbol: 'm' }],
  ['v', { symbol: 'V' }],
]

const NO_UNIT: Unit = { symbol: '' }
/** Names of relative values, which are displayed with a sign. */
const SIGNED = /(^|_)(gain(?!_reduction)|shift|offset|boost|tilt|send|lead)(_|$)/
/** Parameters are sorted in the order in which an engineer sets them. */
const ORDER = [
  /frequency|_hz$|cut|crossover/, /gain|boost|level|peak|loudness|_db/, /^q$|slope|width/,
  /threshold/, /ratio/, /attack/, /release|hold/, /delay|decay|_ms$|_s$/, /mix|feedback|percent/,
] // biome-ignore format: a table
const ABBREVIATIONS: Record<string, string> = {
  q: 'Q', cc: 'CC', vca: 'VCA', eq: 'EQ', lfo: 'LFO', midi: 'MIDI', id: 'ID',
} // biome-ignore format: a table

function split(name: string): [stem: string, unit: Unit] {
  const match = UNITS.find(([suffix]) => name.endsWith(`_${suffix}`))
  return match ? [name.slice(0, -match[0].length - 1), match[1]] : [name, NO_UNIT]
}

function labelOf(stem: string): string {
  const words = stem.split('_').map((word) => ABBREVIATIONS[word] ?? word)
  const [first = '', ...rest] = words
  return [first.charAt(0).toUpperCase() + first.slice(1), ...rest].join(' ')
}

/** Return the divisor and the symbol that suit the largest value. All values share them. */
function scale(values: readonly number[], unit: Unit): readonly [divisor: number, symbol: string] {
  const largest = Math.max(...values.map(Math.abs))
  const step = unit.steps?.find(([minimum]) => largest >= minimum)
  return step ?? [1, unit.symbol]
}

function signed(text: string, value: number, name: string): string {
  return value > 0 && SIGNED.test(name) ? `+${text}` : text
}

function joined(texts: readonly string[], isRange: boolean): string {
  if (!isRange) return texts.join(', ')
  const [low = '', high = ''] = texts
  // A range dash next to a minus sign is hard to read.
  return /^[−+]/.test(low) || /^[−+]/.test(high) ? `${low} to ${high}` : `${low}–${high}`
}

function numbers(
  name: string,
  values: readonly number[],
  unit: Unit,
): [value: string, unit: string] {
  const [divisor, symbol] = scale(values, unit)
  const isRatio = /(^|_)ratio$/.test(name)
  const texts = values.map((value) => {
    const text = number(value / divisor)
    return isRatio ? `${text}:1` : signed(text, value, name)
  })
  const [low, high] = values
  const isRange = values.length === 2 && low !== undefined && high !== undefined && low < high
  if (isRange && isRatio) return [`${texts[0]} to ${texts[1]}`, symbol]
  return [joined(texts, isRange), symbol]
}

function displayedValue(name: string, value: unknown, unit: Unit): [value: string, unit: string] {
  if (typeof value === 'number') return numbers(name, [value], unit)
  if (Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === 'number')) {
    return numbers(name, value, unit)
  }
  if (Array.isArray(value))
    return [value.map((item) => displayedValue(name, item, NO_UNIT)[0]).join(', '), unit.symbol]
  if (typeof value === 'boolean') return [value ? 'on' : 'off', '']
  if (value === null || value === undefined) return ['–', '']
  if (typeof value === 'object') return [JSON.stringify(value), '']
  return [String(value), unit.symbol]
}

function rank(name: string): number {
  const index = ORDER.findIndex((pattern) => pattern.test(name))
  return index < 0 ? ORDER.length : index
}

/** Return the parameters of a suggestion, formatted and in display order. */
export function displayedParameters(parameters: Record<string, unknown>): DisplayedParameter[] {
  const names = Object.keys(parameters).sort((a, b) => rank(a) - rank(b))
  return names.map((name) => {
    const [stem, unit] = split(name)
    const [value, symbol] = displayedValue(stem, parameters[name], unit)
    return { name, label: labelOf(stem), value, unit: symbol }
  })
}
