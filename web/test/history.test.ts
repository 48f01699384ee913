import { describe, expect, it } from 'vitest'
import { historyOf, rateOf, underWay } from '@/features/coverage/history'
import type { Run } from '@/shared/bridge/codetteBridge'

function run(id: number, given: Partial<Run> = {}): Run {
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
    ...given,
  }
}

describe('the history of runs', () => {
  it('has one column a run, the oldest first, failures on top of what was embedded', () => {
    const history = historyOf([run(3, { failed: 2 }), run(2, { embedded: 0 }), run(1)])
    expect(history.runs.map((each) => each.id)).toEqual([1, 2, 3])
    expect(history.columns).toEqual([
      [0, 1, 2],
      [10, 0, 12],
      [10, 0, 10],
      [5, null, 5],
    ])
  })

  it('shows the newest runs only', () => {
    const many = Array.from({ length: 100 }, (_, at) => run(100 - at))
    expect(historyOf(many, 3).runs.map((each) => each.id)).toEqual([98, 99, 100])
  })

  it('has no rate where nothing was embedded or no time has passed', () => {
    expect(rateOf(run(1, { seconds: 0 }))).toBeNull()
    expect(rateOf(run(1, { embedded: 0 }))).toBeNull()
  })

  it('knows the run under way, also while it is being cancelled', () => {
    expect(underWay([run(2, { state: 'cancelling' }), run(1)])?.id).toBe(2)
    expect(underWay([run(1, { state: 'interrupted' })])).toBeUndefined()
  })
})
