import type { CollectionStatus, Coverage, Run } from '@/shared/bridge/codetteBridge'
import { duration } from '@/shared/format/numbers'
import { ActionButton, Meter, Panel } from '@/shared/ui'
import css from './coverage.module.css'
import { count, perSecond } from './format'
import { ACTIVE_STATES } from './history'

interface Props {
  collection: CollectionStatus
  /** The active run, or the last one. */
  run: Run | undefined
  /** Whether the connection delivers progress events. */
  live: boolean
}

/** The active or last backfill, and the buttons to start and cancel one. */
export function Backfill({ collection, run, live }: Props) {
  const active = run !== undefined && ACTIVE_STATES.has(run.state)
  const actions = active ? (
    <ActionButton action="backfill.cancel" kind="danger" data-testid="cancel">
      {run.state === 'cancelling' ? 'Cancelling' : 'Cancel'}
    </ActionButton>
  ) : (
    <ActionButton action="backfill.start" kind="primary" data-testid="start">
      Start backfill
    </ActionButton>
  )
  return (
    <Panel title="Backfill" actions={actions} className={css.backfill}>
      {active ? (
        <Progress run={run} coverage={collection.coverage} live={live} />
      ) : (
        <Summary collection={collection} run={run} />
      )}
    </Panel>
  )
}

/** Return the rows that a backfill has left. */
function remaining(coverage: Coverage): number {
  return coverage.pending + coverage.missing
}

/** Return the fraction of the rows of a run that are embedded or failed. */
export function progressOf(run: Run, coverage: Coverage): number {
  const done = run.embedded + run.failed
  const left = remaining(coverage)
  return done + left === 0 ? 1 : done / (done + left)
}

/** Say what a backfill would do. */
export function restOf(coverage: Coverage): string {
  const due = remaining(coverage)
  const rows = (n: number) => `${count(n)} ${n === 1 ? 'row' : 'rows'}`
  if (coverage.empty) return 'The table is empty.'
  if (due > 0) return `${rows(due)} to embed.`
  if (coverage.failed > 0) return `${rows(coverage.failed)} could not be embedded.`
  return coverage.ratio === null ? 'No row has text.' : 'All rows are embedded.'
}

function Progress({ run, coverage, live }: { run: Run; coverage: Coverage; live: boolean }) {
  const progress = progressOf(run, coverage)
  return (
    <div className={css.progress} data-testid="progress">
      <p className={css.large}>
        <span className="num">{Math.floor(100 * progress)} %</span>
        <span className="quiet">
          Backfill {run.id}, {run.state}
        </span>
      </p>
      <Meter value={progress} label={`Progress of backfill ${run.id}`} />
      <dl className={css.facts}>
        <Fact name="Embedded" value={count(run.embedded)} />
        <Fact name="Remaining" value={count(remaining(coverage))} />
        <Fact name="Failed" value={count(run.failed)} tone={run.failed ? 'bad' : undefined} />
        <Fact name="Rate" value={perSecond(coverage.rate) || 'unknown'} />
        <Fact
          name="Time left"
          value={coverage.etaSeconds === null ? 'unknown' : duration(coverage.etaSeconds)}
        />
        <Fact name="Workers" value={count(coverage.workers)} />
      </dl>
      {!live && (
        <p className={css.warn}>
          Connection lost. These figures update when the connection is back.
        </p>
      )}
    </div>
  )
}

/** The state of the collection while no backfill is active. */
function Summary({ collection, run }: { collection: CollectionStatus; run: Run | undefined }) {
  return (
    <div className={css.progress}>
      <p className={css.large} data-testid="backfill-rest">
        {restOf(collection.coverage)}
      </p>
      {run ? <Outcome run={run} /> : <p className="quiet">No backfills yet.</p>}
    </div>
  )
}

/** The result and the figures of a run. */
export function Outcome({ run }: { run: Run }) {
  return (
    <>
      <p className="quiet" role="status" data-testid="last-run">
        Backfill {run.id} {OUTCOMES[run.state]} {duration(run.seconds)}.
      </p>
      <dl className={css.facts}>
        <Fact name="Embedded" value={count(run.embedded)} />
        <Fact name="Reused" value={count(run.reused)} />
        <Fact name="Failed" value={count(run.failed)} tone={run.failed ? 'bad' : undefined} />
        <Fact
          name="Rate"
          value={perSecond(run.seconds > 0 ? run.embedded / run.seconds : null) || 'none'}
        />
        <Fact name="Requests" value={count(run.batches)} />
        <Fact name="Tokens" value={count(run.tokens)} />
      </dl>
    </>
  )
}

const OUTCOMES: Record<Run['state'], string> = {
  running: 'has been running for',
  cancelling: 'is being cancelled after',
  completed: 'completed in',
  cancelled: 'was cancelled after',
  interrupted: 'was interrupted after',
}

function Fact({ name, value, tone }: { name: string; value: string; tone?: 'bad' | undefined }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd className="num" data-tone={tone}>
        {value}
      </dd>
    </div>
  )
}
