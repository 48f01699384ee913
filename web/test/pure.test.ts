import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { HitsAndSuggestions } from '@/shared/api/queries'
import { delayOf } from '@/shared/bridge/backoff'
import { fromWire, toWire } from '@/shared/bridge/casing'
import type { Hit, SearchResults, Suggestions } from '@/shared/bridge/codetteBridge'
import { duration, number, percent } from '@/shared/format/numbers'
import { displayedParameters } from '@/shared/format/parameters'
import { answersOf, markedWords, pieces } from '@/shared/search/answers'
import { searchSchema } from '@/shared/search/state'
import { displayName, sortedCategories } from '@/shared/theme/categories'
import { readState, sharedQuery, writeState } from '@/shared/url'

function displayed(name: string, value: unknown): string {
  const [{ label, value: text, unit } = { label: '', value: '', unit: '' }] = displayedParameters({
    [name]: value,
  })
  return `${label}: ${text}${unit && ` ${unit}`}`
}

describe('parameters', () => {
  test.each([
    ['frequency_hz', 300, 'Frequency: 300 Hz'],
    ['frequency_hz', [1000, 4000], 'Frequency: 1–4 kHz'],
    ['frequency_hz', [300, 3000], 'Frequency: 0.3–3 kHz'],
    ['gain_db', -3, 'Gain: −3 dB'],
    ['gain_db', 2.5, 'Gain: +2.5 dB'],
    ['gain_db', [-12, 6], 'Gain: −12 to +6 dB'],
    ['gain_reduction_db', 2, 'Gain reduction: 2 dB'],
    ['ratio', 3, 'Ratio: 3:1'],
    ['ratio', [3, 4], 'Ratio: 3:1 to 4:1'],
    ['attack_ms', [10, 20], 'Attack: 10–20 ms'],
    ['release_ms', 1500, 'Release: 1.5 s'],
    ['q', 1.2, 'Q: 1.2'],
    ['slope_db_per_oct', 12, 'Slope: 12 dB/oct'],
    ['true_peak_dbtp', -1, 'True peak: −1 dBTP'],
    ['monitor_level_db_spl', [76, 79, 83], 'Monitor level: 76, 79, 83 dB SPL'],
    ['pan_percent', [-100, 0, 100], 'Pan: −100, 0, 100 %'],
    ['impedance_ohm', 1_000_000, 'Impedance: 1 MΩ'],
    ['bpm', 120, 'Bpm: 120'],
    ['tempo_bpm', 120, 'Tempo: 120 bpm'],
    ['sample_rate_hz', 48_000, 'Sample rate: 48 kHz'],
    ['note_value', '1/8 dotted', 'Note value: 1/8 dotted'],
    ['cc_number', 11, 'CC number: 11'],
    ['enabled', true, 'Enabled: on'],
    ['curve', null, 'Curve: –'],
  ])('%s %o is formatted as %s', (name, value, text) => {
    expect(displayed(name, value)).toBe(text)
  })

  test('are sorted in the order in which an engineer sets them', () => {
    const names = displayedParameters({
      release_ms: 60,
      ratio: 4,
      q: 1,
      gain_db: 1,
      frequency_hz: 100,
    })
    expect(names.map(({ name }) => name)).toEqual([
      'frequency_hz',
      'gain_db',
      'q',
      'ratio',
      'release_ms',
    ])
  })

  test('of the whole knowledge base have a value and no unit in the label', () => {
    const file = new URL('../../src/backline/data/music_knowledge.jsonl', import.meta.url)
    const all = readFileSync(file, 'utf8')
      .trim()
      .split('\n')
      .flatMap((line) => displayedParameters(JSON.parse(line).parameters))
    expect(all.length).toBeGreaterThan(500)
    expect(
      all.filter(({ value, label }) => !value || !label || value.includes('undefined')),
    ).toEqual([])
    expect(all.filter(({ label }) => /\b(hz|ms|dbfs|lufs)$/i.test(label))).toEqual([])
  })
})

describe('address', () => {
  test('contains the members that differ from their default', () => {
    const query = writeState(searchSchema, '?q=old&other=1', {
      q: 'kick & bass',
      bpm: 120,
      mode: 'hybrid',
      n: 10,
    })
    expect(query).toBe('q=kick+%26+bass&other=1&bpm=120')
    expect(readState(searchSchema, `?${query}`)).toMatchObject({
      q: 'kick & bass',
      bpm: 120,
      mode: 'hybrid',
      n: 10,
    })
  })

  test('with invalid values is read as the default', () => {
    expect(readState(searchSchema, '?mode=loud&bpm=fast&n=9999&q=%E0%A4%A')).toMatchObject({
      mode: 'hybrid',
      bpm: null,
      n: 50,
    })
    expect(readState(searchSchema, `?q=${'x'.repeat(9000)}`).q).toHaveLength(2000)
  })

  test('keeps the shared members in a link to another view', () => {
    expect(sharedQuery('?q=kick&category=eq&n=30&zoom=4')).toBe('q=kick&category=eq')
  })
})

const hit = (key: string, more: Partial<Hit> = {}): Hit => ({
  key, score: 0.5, parts: { dense: 0.6 }, content: `content of ${key}`, snippet: null, row: {},
  ...more,
}) // biome-ignore format: a record
const results = (...hits: Hit[]): SearchResults => ({
  collection: 'c', query: 'q', mode: 'hybrid', hits, limit: 10, offset: 0, model: 'm', tookMs: 1,
}) // biome-ignore format: a record
const dataOf = (
  hits: SearchResults,
  suggestions: Suggestions | null = null,
): HitsAndSuggestions => ({
  hits,
  suggestions,
})
const suggestions = (...ids: string[]): Suggestions => ({
  context: {}, timestamp: '', message: null,
  suggestions: ids.map((id) => ({
    id, type: 't', title: 't', description: 'd', parameters: {}, confidence: 1, category: 'c',
    score: 1, reason: `because ${id}`,
  })),
}) // biome-ignore format: a record

describe('answers', () => {
  test('keep the order of the search and the scores of both rankings', () => {
    const answers = answersOf(
      dataOf(results(hit('a'), hit('b', { parts: { keyword: 3 } })), suggestions('b', 'a')),
      false,
      10,
    )
    expect(answers.map(({ key, dense, keyword, reason }) => [key, dense, keyword, reason])).toEqual(
      [
        ['a', 0.6, null, 'because a'],
        ['b', null, 3, 'because b'],
      ],
    )
  })

  test('with a context put suggestions first, in their order', () => {
    const answers = answersOf(
      dataOf(results(hit('a'), hit('b'), hit('c')), suggestions('c', 'b')),
      true,
      2,
    )
    expect(answers.map(({ key }) => key)).toEqual(['c', 'b'])
  })

  test('from any table have a title and a text', () => {
    const [ticket] = answersOf(
      dataOf(
        results(hit('7', { row: { subject: 'Refund', body: 'Not received.', parameters: [1] } })),
      ),
      false,
      10,
    )
    expect(ticket).toMatchObject({
      title: 'Refund',
      advice: 'Not received.',
      parameters: {},
      confidence: null,
    })
    const [bare] = answersOf(dataOf(results(hit('8'))), false, 10)
    expect(bare).toMatchObject({ title: '8', advice: 'content of 8' })
  })

  test('mark exactly the words of the query', () => {
    const words = markedWords('<mark>Vocals</mark> that <mark>muddy</mark> &lt;b&gt;')
    expect([...words]).toEqual(['vocals', 'muddy'])
    const split = pieces('Muddy vocals, <b>muddying</b>', words)
    expect(split.filter(({ marked }) => marked).map(({ text }) => text)).toEqual([
      'Muddy',
      'vocals',
    ])
    expect(split.map(({ text }) => text).join('')).toBe('Muddy vocals, <b>muddying</b>')
  })
})

describe('helpers', () => {
  test('casing keeps the keys of data members', () => {
    const wire = {
      action_id: 1,
      parameters: { gain_db: -3 },
      row: { created_at: 'x' },
      eta_seconds: [{ in_flight: 2 }],
    }
    const read = {
      actionId: 1,
      parameters: { gain_db: -3 },
      row: { created_at: 'x' },
      etaSeconds: [{ inFlight: 2 }],
    }
    expect(fromWire(wire)).toEqual(read)
    expect(toWire(read)).toEqual(wire)
  })

  test('the backoff delay grows to its maximum and is random in its upper half', () => {
    const backoff = { firstMs: 100, mostMs: 1000 }
    expect([0, 1, 2, 9].map((attempt) => delayOf(attempt, backoff, () => 1))).toEqual([
      100, 200, 400, 1000,
    ])
    expect([0, 1, 2, 9].map((attempt) => delayOf(attempt, backoff, () => 0))).toEqual([
      50, 100, 200, 500,
    ])
  })

  test('numbers, durations and category names are formatted for display', () => {
    expect(number(-1234.5678)).toBe('−1,234.568')
    expect(percent(0.99999)).toBe('99.9 %')
    expect(percent(1)).toBe('100 %')
    expect([0.2, 3.14, 59, 200, 7500].map(duration)).toEqual([
      '200 ms',
      '3.1 s',
      '59 s',
      '3 min 20 s',
      '2 h 5 min',
    ])
    expect(sortedCategories(['eq', null, 'drums', 'eq'])).toEqual(['drums', 'eq'])
    expect([displayName('sound_design'), displayName('eq')]).toEqual(['Sound design', 'EQ'])
  })
})
