import { describe, expect, it } from 'vitest'
import { activeRun, historyOf, rateOf } from '@/features/coverage/history'
import type { Run } from '@/shared/bridge/codetteBridge'

function run(id: number, overrides: Partial<Run> = {}): Run {
  return {
    id,
    collection: 'notes',
    model: 'hash',
    state: 'completed',
    scanned: 0,
    due: 10,
    embedded: 10,
    reused: 0,
    failed: 0,
    batches: 1,
    tokens: 0,
    startedAt: '2026-01-01T00:00:00Z',
    finishedAt: null,
    seconds: 2,
    settings: {},
    ...overrides,
  }
}

describe('run history', () => {
  it('has one column per run, oldest first, with failed rows stacked on embedded rows', () => {
    const history = historyOf([run(3, { failed: 2 }), run(2, { embedded: 0 }), run(1)])
    expect(history.runs.map(({ id }) => id)).toEqual([1, 2, 3])
    expect(history.columns).toEqual([
      [0, 1, 2],
      [10, 0, 12],
      [10, 0, 10],
      [5, null, 5],
    ])
  })

  it('contains only the newest runs', () => {
    const many = Array.from({ length: 100 }, (_, index) => run(100 - index))
    expect(historyOf(many, 3).runs.map(({ id }) => id)).toEqual([98, 99, 100])
  })

  it('has no rate for a run without embedded rows or without duration', () => {
    expect(rateOf(run(1, { seconds: 0 }))).toBeNull()
    expect(rateOf(run(1, { embedded: 0 }))).toBeNull()
  })

  it('returns the active run, including a run that is being cancelled', () => {
    expect(activeRun([run(2, { state: 'cancelling' }), run(1)])?.id).toBe(2)
    expect(activeRun([run(1, { state: 'interrupted' })])).toBeUndefined()
  })
})
