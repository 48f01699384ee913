import { runAction } from '@/shared/actions/useAction'
import type { Run } from '@/shared/bridge/codetteBridge'
import { duration } from '@/shared/format/numbers'
import { EmptyState, ErrorState, Panel, Skeleton } from '@/shared/ui'
import { Outcome } from './Backfill'
import css from './coverage.module.css'
import { count, dateTime, perSecond } from './format'
import { rateOf } from './history'
import { RunChart } from './RunChart'

interface Props {
  runs: readonly Run[] | undefined
  error: unknown
  onRetry: () => void
  selected: number | null
}

const MAX_LISTED = 12

/** The past backfills of a collection, as a chart and as a table. */
export function Runs({ runs, error, onRetry, selected }: Props) {
  return (
    <Panel title="Backfills" actions={<Legend />} className={css.runs}>
      {error ? (
        <ErrorState error={error} onRetry={onRetry} />
      ) : !runs ? (
        <Skeleton height={180} />
      ) : runs.length === 0 ? (
        <EmptyState title="No backfills yet">Backfills of this collection appear here.</EmptyState>
      ) : (
        <History runs={runs} selected={selected} />
      )}
    </Panel>
  )
}

/** Select a run, or clear the selection if it is selected. */
function toggle(run: Run, selected: number | null): void {
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
  const selectedRun = runs.find((run) => run.id === selected)
  return (
    <>
      <RunChart runs={runs} selected={selected} onSelect={(run) => toggle(run, selected)} />
      <div className={css.scroller}>
        <table className={css.runTable} data-testid="runs">
          <caption className="hidden-text">Latest backfills, newest first</caption>
          <thead>
            <tr>
              {['Run', 'State', 'Started', 'Duration', 'Embedded', 'Failed', 'Rate'].map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {runs.slice(0, MAX_LISTED).map((run) => (
              <Row key={run.id} run={run} selected={selected} />
            ))}
          </tbody>
        </table>
      </div>
      {selectedRun && (
        <div className={css.selectedRun} data-testid="selected-run">
          <Outcome run={selectedRun} />
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
          onClick={() => toggle(run, selected)}
        >
          {run.id}
        </button>
      </th>
      <td className={css.runState} data-state={run.state}>
        {run.state}
      </td>
      <td>{dateTime(run.startedAt)}</td>
      <td>{duration(run.seconds)}</td>
      <td>{count(run.embedded)}</td>
      <td data-tone={run.failed ? 'bad' : undefined}>{count(run.failed)}</td>
      <td>{perSecond(rateOf(run)) || 'none'}</td>
    </tr>
  )
}
