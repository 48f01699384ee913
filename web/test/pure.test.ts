import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { answersOf, markedWords, pieces } from '@/features/ask/answers'
import { askSchema } from '@/features/ask/state'
import type { Found } from '@/shared/api/queries'
import { delayOf } from '@/shared/bridge/backoff'
import { fromWire, toWire } from '@/shared/bridge/casing'
import type { Hit, SearchResults, Suggestions } from '@/shared/bridge/codetteBridge'
import { duration, number, percent } from '@/shared/format/numbers'
import { shownParameters } from '@/shared/format/parameters'
import { inOrder, spoken } from '@/shared/theme/categories'
import { carried, readState, writeState } from '@/shared/url'

function shown(name: string, value: unknown): string {
  const [{ label, value: text, unit } = { label: '', value: '', unit: '' }] = shownParameters({
    [name]: value,
  })
  return `${label}: ${text}${unit && ` ${unit}`}`
}

describe('parameters as a studio writes them', () => {
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
  ])('%s %o', (name, value, text) => {
    expect(shown(name, value)).toBe(text)
  })

  test('stand in the order in which they are set', () => {
    const names = shownParameters({ release_ms: 60, ratio: 4, q: 1, gain_db: 1, frequency_hz: 100 })
    expect(names.map(({ name }) => name)).toEqual([
      'frequency_hz',
      'gain_db',
      'q',
      'ratio',
      'release_ms',
    ])
  })

  test('of the whole knowledge base show a value, and no unit twice', () => {
    const file = new URL('../../src/backline/data/music_knowledge.jsonl', import.meta.url)
    const all = readFileSync(file, 'utf8')
      .trim()
      .split('\n')
      .flatMap((line) => shownParameters(JSON.parse(line).parameters))
    expect(all.length).toBeGreaterThan(500)
    expect(
      all.filter(({ value, label }) => !value || !label || value.includes('undefined')),
    ).toEqual([])
    expect(all.filter(({ label }) => /\b(hz|ms|dbfs|lufs)$/i.test(label))).toEqual([])
  })
})

describe('the address', () => {
  test('holds what differs from the default, and gives it back', () => {
    const query = writeState(askSchema, '?q=old&theirs=1', {
      q: 'kick & bass',
      bpm: 120,
      mode: 'hybrid',
      n: 10,
    })
    expect(query).toBe('q=kick+%26+bass&theirs=1&bpm=120')
    expect(readState(askSchema, `?${query}`)).toMatchObject({
      q: 'kick & bass',
      bpm: 120,
      mode: 'hybrid',
      n: 10,
    })
  })

  test('that makes no sense reads as the default', () => {
    expect(readState(askSchema, '?mode=loud&bpm=fast&n=9999&q=%E0%A4%A')).toMatchObject({
      mode: 'hybrid',
      bpm: null,
      n: 50,
    })
    expect(readState(askSchema, `?q=${'x'.repeat(9000)}`).q).toHaveLength(2000)
  })

  test('takes along to another view what means the same there', () => {
    expect(carried('?q=kick&category=eq&n=30&zoom=4')).toBe('q=kick&category=eq')
  })
})

const hit = (key: string, more: Partial<Hit> = {}): Hit => ({
  key, score: 0.5, parts: { dense: 0.6 }, content: `content of ${key}`, snippet: null, row: {}, ...more,
}) // biome-ignore format: a record
const found = (...hits: Hit[]): SearchResults => ({
  collection: 'c', query: 'q', mode: 'hybrid', hits, limit: 10, offset: 0, model: 'm', tookMs: 1,
}) // biome-ignore format: a record
const answered = (hits: SearchResults, suggestions: Suggestions | null = null): Found => ({
  hits,
  suggestions,
})
const suggested = (...ids: string[]): Suggestions => ({
  context: {}, timestamp: '', message: null,
  suggestions: ids.map((id) => ({
    id, type: 't', title: 't', description: 'd', parameters: {}, confidence: 1, category: 'c', score: 1, reason: `because ${id}`,
  })),
}) // biome-ignore format: a record

describe('answers', () => {
  test('keep the order of the search, and say what found them', () => {
    const answers = answersOf(
      answered(found(hit('a'), hit('b', { parts: { keyword: 3 } })), suggested('b', 'a')),
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

  test('with a context stand in the order of the suggestions, the others behind', () => {
    const answers = answersOf(
      answered(found(hit('a'), hit('b'), hit('c')), suggested('c', 'b')),
      true,
      2,
    )
    expect(answers.map(({ key }) => key)).toEqual(['c', 'b'])
  })

  test('of any table have a title and a text', () => {
    const [ticket] = answersOf(
      answered(
        found(hit('7', { row: { subject: 'Refund', body: 'Not received.', parameters: [1] } })),
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
    const [bare] = answersOf(answered(found(hit('8'))), false, 10)
    expect(bare).toMatchObject({ title: '8', advice: 'content of 8' })
  })

  test('mark the words of the question, and nothing else', () => {
    const words = markedWords('<mark>Vocals</mark> that <mark>muddy</mark> &lt;b&gt;')
    expect([...words]).toEqual(['vocals', 'muddy'])
    const cut = pieces('Muddy vocals, <b>muddying</b>', words)
    expect(cut.filter(({ marked }) => marked).map(({ text }) => text)).toEqual(['Muddy', 'vocals'])
    expect(cut.map(({ text }) => text).join('')).toBe('Muddy vocals, <b>muddying</b>')
  })
})

describe('small things', () => {
  test('casing leaves data alone', () => {
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

  test('the wait grows, is never over its most, and differs by chance', () => {
    const backoff = { firstMs: 100, mostMs: 1000 }
    expect([0, 1, 2, 9].map((attempt) => delayOf(attempt, backoff, () => 1))).toEqual([
      100, 200, 400, 1000,
    ])
    expect([0, 1, 2, 9].map((attempt) => delayOf(attempt, backoff, () => 0))).toEqual([
      50, 100, 200, 500,
    ])
  })

  test('numbers', () => {
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
    expect(inOrder(['eq', null, 'drums', 'eq'])).toEqual(['drums', 'eq'])
    expect([spoken('sound_design'), spoken('eq')]).toEqual(['Sound design', 'EQ'])
  })
})
