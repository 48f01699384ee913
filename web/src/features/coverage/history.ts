/** Converts the runs of a collection to the columns of a chart. */
import type { Run } from '@/shared/bridge/codetteBridge'

export interface History {
  /** Oldest first. */
  readonly runs: readonly Run[]
  /** Position, rows embedded and failed, rows embedded, rows per second or null. */
  readonly columns: [number[], number[], number[], (number | null)[]]
}

export const MAX_RUNS = 40

/** Return the rows per second of a run, or null if it embedded none. */
export function rateOf(run: Run): number | null {
  return run.seconds > 0 && run.embedded > 0 ? run.embedded / run.seconds : null
}

/** Return the newest `limit` runs. The input is sorted newest first, as the server returns it. */
export function historyOf(newestFirst: readonly Run[], limit = MAX_RUNS): History {
  const runs = newestFirst.slice(0, limit).reverse()
  return {
    runs,
    columns: [
      runs.map((_, index) => index),
      runs.map((run) => run.embedded + run.failed),
      runs.map((run) => run.embedded),
      runs.map(rateOf),
    ],
  }
}

/** States of a run that has not ended. */
export const ACTIVE_STATES: ReadonlySet<Run['state']> = new Set(['running', 'cancelling'])

export function activeRun(runs: readonly Run[]): Run | undefined {
  return runs.find((run) => ACTIVE_STATES.has(run.state))
}
