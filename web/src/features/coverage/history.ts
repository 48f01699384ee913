/** The runs of a collection as the columns of a chart. */
import type { Run } from '@/shared/bridge/codetteBridge'

export interface History {
  /** The oldest first. */
  readonly runs: readonly Run[]
  /** Position, rows embedded and failed, rows embedded, rows a second (null where none). */
  readonly columns: [number[], number[], number[], (number | null)[]]
}

export const MOST_SHOWN = 40

/** Rows a second of a run. */
export function rateOf(run: Run): number | null {
  return run.seconds > 0 && run.embedded > 0 ? run.embedded / run.seconds : null
}

/** The newest runs, from what the server gives (the newest first). */
export function historyOf(newestFirst: readonly Run[], most = MOST_SHOWN): History {
  const runs = newestFirst.slice(0, most).reverse()
  return {
    runs,
    columns: [
      runs.map((_, at) => at),
      runs.map((run) => run.embedded + run.failed),
      runs.map((run) => run.embedded),
      runs.map(rateOf),
    ],
  }
}

export const UNDER_WAY: ReadonlySet<Run['state']> = new Set(['running', 'cancelling'])

export function underWay(runs: readonly Run[]): Run | undefined {
  return runs.find((run) => UNDER_WAY.has(run.state))
}
