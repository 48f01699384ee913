import { expect, it } from 'vitest'
import { restOf } from '@/features/coverage/Backfill'
import type { Coverage } from '@/shared/bridge/codetteBridge'

function coverage(overrides: Partial<Coverage> = {}): Coverage {
  return {
    rows: 10,
    embedded: 10,
    blank: 0,
    pending: 0,
    missing: 0,
    failed: 0,
    ratio: 1,
    empty: false,
    complete: true,
    ...overrides,
  } as Coverage
}

it('says what a backfill would do', () => {
  expect(restOf(coverage())).toBe('All rows are embedded.')
  expect(restOf(coverage({ rows: 0, embedded: 0, ratio: null, empty: true }))).toBe(
    'The table is empty.',
  )
  expect(restOf(coverage({ embedded: 0, blank: 10, ratio: null }))).toBe('No row has text.')
  expect(restOf(coverage({ pending: 1 }))).toBe('1 row to embed.')
  expect(restOf(coverage({ pending: 1000, missing: 1, failed: 3 }))).toBe('1,001 rows to embed.')
  expect(restOf(coverage({ failed: 2 }))).toBe('2 rows could not be embedded.')
})
