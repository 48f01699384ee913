/**
 * Parameters as a studio writes them. A name carries its unit at its end (`attack_ms`,
 * `true_peak_dbtp`); a pair is a range, a longer list is a choice.
 */
import { number } from './numbers'

export interface ShownParameter {
  name: string
  label: string
  value: string
  unit: string
}

interface Unit {
  shown: string
  /** Larger steps of the unit, the largest first. */
  steps?: readonly (readonly [least: number, shown: string])[]
}

/** The longest endings come first, so that `db_per_oct` is not taken for another. */
const UNITS: readonly (readonly [ending: string, unit: Unit])[] = [
  ['db_per_oct', { shown: 'dB/oct' }],
  ['m_per_s', { shown: 'm/s' }],
  ['db_spl', { shown: 'dB SPL' }],
  ['semitones', { shown: 'st' }],
  ['degrees', { shown: '°' }],
  ['percent', { shown: '%' }],
  ['samples', { shown: 'samples' }],
  ['cents', { shown: 'ct' }],
  ['beats', { shown: 'beats' }],
  ['steps', { shown: 'steps' }],
  ['dbfs', { shown: 'dBFS' }],
  ['dbtp', { shown: 'dBTP' }],
  ['lufs', { shown: 'LUFS' }],
  ['kbps', { shown: 'kbit/s' }],
  ['bars', { shown: 'bars' }],
  ['bits', { shown: 'bit' }],
  ['days', { shown: 'days' }],
  ['dba', { shown: 'dBA' }],
  ['bpm', { shown: 'bpm' }],
  ['lsb', { shown: 'LSB' }],
  ['ohm', { shown: 'Ω', steps: [[1e6, 'MΩ'], [1e3, 'kΩ']] }], // biome-ignore format: a table
  ['ips', { shown: 'ips' }],
  ['rpm', { shown: 'rpm' }],
  ['min', { shown: 'min' }],
  ['db', { shown: 'dB' }],
  ['hz', { shown: 'Hz', steps: [[1e3, 'kHz']] }],
  ['ms', { shown: 'ms', steps: [[1e3, 's']] }],
  ['cm', { shown: 'cm' }],
  ['lu', { shown: 'LU' }],
  ['s', { shown: 's' }],
  ['h', { shown: 'h' }],
  ['m', { shown: 'm' }],
  ['v', { shown: 'V' }],
]

const NO_UNIT: Unit = { shown: '' }
/** Values that say by how much, so that their sign matters. */
const SIGNED = /(^|_)(gain(?!_reduction)|shift|offset|boost|tilt|send|lead)(_|$)/
/** The order in which an engineer reaches for them. */
const ORDER = [
  /frequency|_hz$|cut|crossover/, /gain|boost|level|peak|loudness|_db/, /^q$|slope|width/, /threshold/,
  /ratio/, /attack/, /release|hold/, /delay|decay|_ms$|_s$/, /mix|feedback|percent/,
] // biome-ignore format: a table
const ABBREVIATIONS: Record<string, string> = {
  q: 'Q', cc: 'CC', vca: 'VCA', eq: 'EQ', lfo: 'LFO', midi: 'MIDI', id: 'ID',
} // biome-ignore format: a table

function split(name: string): [stem: string, unit: Unit] {
  const found = UNITS.find(([ending]) => name.endsWith(`_${ending}`))
  return found ? [name.slice(0, -found[0].length - 1), found[1]] : [name, NO_UNIT]
}

function labelOf(stem: string): string {
  const words = stem.split('_').map((word) => ABBREVIATIONS[word] ?? word)
  const [first = '', ...rest] = words
  return [first.charAt(0).toUpperCase() + first.slice(1), ...rest].join(' ')
}

/** All numbers of a parameter in one unit: the one that suits its largest. */
function scale(values: readonly number[], unit: Unit): readonly [factor: number, shown: string] {
  const largest = Math.max(...values.map(Math.abs))
  const step = unit.steps?.find(([least]) => largest >= least)
  return step ? step : [1, unit.shown]
}

function signed(text: string, value: number, name: string): string {
  return value > 0 && SIGNED.test(name) ? `+${text}` : text
}

function joined(texts: readonly string[], isRange: boolean): string {
  if (!isRange) return texts.join(', ')
  const [low = '', high = ''] = texts
  // A dash beside a minus cannot be read.
  return /^[−+]/.test(low) || /^[−+]/.test(high) ? `${low} to ${high}` : `${low}–${high}`
}

function numbers(
  name: string,
  values: readonly number[],
  unit: Unit,
): [value: string, unit: string] {
  const [factor, shown] = scale(values, unit)
  const isRatio = /(^|_)ratio$/.test(name)
  const texts = values.map((value) => {
    const text = number(value / factor)
    return isRatio ? `${text}:1` : signed(text, value, name)
  })
  const [low, high] = values
  const isRange = values.length === 2 && low !== undefined && high !== undefined && low < high
  if (isRange && isRatio) return [`${texts[0]} to ${texts[1]}`, shown]
  return [joined(texts, isRange), shown]
}

function shownValue(name: string, value: unknown, unit: Unit): [value: string, unit: string] {
  if (typeof value === 'number') return numbers(name, [value], unit)
  if (Array.isArray(value) && value.length > 0 && value.every((each) => typeof each === 'number')) {
    return numbers(name, value, unit)
  }
  if (Array.isArray(value))
    return [value.map((each) => shownValue(name, each, NO_UNIT)[0]).join(', '), unit.shown]
  if (typeof value === 'boolean') return [value ? 'on' : 'off', '']
  if (value === null || value === undefined) return ['–', '']
  if (typeof value === 'object') return [JSON.stringify(value), '']
  return [String(value), unit.shown]
}

function rank(name: string): number {
  const at = ORDER.findIndex((pattern) => pattern.test(name))
  return at < 0 ? ORDER.length : at
}

/** The parameters of a suggestion, in the order and the words of a studio. */
export function shownParameters(parameters: Record<string, unknown>): ShownParameter[] {
  const names = Object.keys(parameters).sort((a, b) => rank(a) - rank(b))
  return names.map((name) => {
    const [stem, unit] = split(name)
    const [value, shown] = shownValue(stem, parameters[name], unit)
    return { name, label: labelOf(stem), value, unit: shown }
  })
}
