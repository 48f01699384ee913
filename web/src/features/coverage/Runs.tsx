import { runAction } from '@/shared/actions/useAction'
import type { Run } from '@/shared/bridge/codetteBridge'
import { EmptyState, ErrorState, Panel, Skeleton } from '@/shared/ui'
import { Outcome } from './Backfill'
import css from './coverage.module.css'
import { rateOf } from './history'
import { RunChart } from './RunChart'
import { count, moment, perSecond, span } from './words'

interface Props {
  runs: readonly Run[] | undefined
  error: unknown
  onRead: () => void
  selected: number | null
}

const LISTED = 12

/** The history of a collection's backfills: a chart, and the same as a table. */
export function Runs({ runs, error, onRead, selected }: Props) {
  return (
    <Panel title="Backfills" actions={<Legend />} className={css.runs}>
      {error ? (
        <ErrorState error={error} onRetry={onRead} />
      ) : !runs ? (
        <Skeleton height={180} />
      ) : runs.length === 0 ? (
        <EmptyState title="No backfill yet">
          Start one, and it is drawn here when it ends.
        </EmptyState>
      ) : (
        <History runs={runs} selected={selected} />
      )}
    </Panel>
  )
}

function select(run: Run, selected: number | null): void {
  void runAction('run.select', { run: run.id === selected ? null : run.id })
}

function Legend() {
  return (
    <span className={css.legend}>
      <span data-of="embedded">embedded</span>
      <span data-of="failed">failed</span>
      <span data-of="rate">rows/s</span>
    </span>
  )
}

function History({ runs, selected }: { runs: readonly Run[]; selected: number | null }) {
  const chosen = runs.find((run) => run.id === selected)
  return (
    <>
      <RunChart runs={runs} selected={selected} onSelect={(run) => select(run, selected)} />
      <div className={css.scroller}>
        <table className={css.runTable} data-testid="runs">
          <caption className="hidden-text">The last backfills, the newest first</caption>
          <thead>
            <tr>
              {['Run', 'State', 'Began', 'Took', 'Embedded', 'Failed', 'Rate'].map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {runs.slice(0, LISTED).map((run) => (
              <Row key={run.id} run={run} selected={selected} />
            ))}
          </tbody>
        </table>
      </div>
      {chosen && (
        <div className={css.chosen} data-testid="chosen-run">
          <Outcome run={chosen} />
        </div>
      )}
    </>
  )
}

function Row({ run, selected }: { run: Run; selected: number | null }) {
  return (
    <tr data-selected={run.id === selected}>
      <th scope="row">
        <button
          type="button"
          className={css.name}
          aria-pressed={run.id === selected}
          aria-label={`Backfill ${run.id}`}
          onClick={() => select(run, selected)}
        >
          {run.id}
        </button>
      </th>
      <td className={css.runState} data-state={run.state}>
        {run.state}
      </td>
      <td>{moment(run.startedAt)}</td>
      <td>{span(run.seconds)}</td>
      <td>{count(run.embedded)}</td>
      <td data-tone={run.failed ? 'bad' : undefined}>{count(run.failed)}</td>
      <td>{perSecond(rateOf(run)) || 'none'}</td>
    </tr>
  )
}
