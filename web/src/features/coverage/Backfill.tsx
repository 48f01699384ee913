import type { CollectionStatus, Coverage, Run } from '@/shared/bridge/codetteBridge'
import { ActionButton, Meter, Panel } from '@/shared/ui'
import css from './coverage.module.css'
import { UNDER_WAY } from './history'
import { count, perSecond, span } from './words'

interface Props {
  collection: CollectionStatus
  /** The run under way, else the last one. */
  run: Run | undefined
  followed: boolean
}

/** What the present backfill does, and the buttons that start and cancel one. */
export function Backfill({ collection, run, followed }: Props) {
  const active = run !== undefined && UNDER_WAY.has(run.state)
  const actions = active ? (
    <ActionButton action="backfill.cancel" kind="danger" data-testid="cancel">
      {run.state === 'cancelling' ? 'Cancelling' : 'Cancel'}
    </ActionButton>
  ) : (
    <ActionButton action="backfill.start" kind="primary" data-testid="start">
      Start a backfill
    </ActionButton>
  )
  return (
    <Panel title="Backfill" actions={actions} className={css.backfill}>
      {active ? (
        <Progress run={run} coverage={collection.coverage} followed={followed} />
      ) : (
        <Rest collection={collection} run={run} />
      )}
    </Panel>
  )
}

/** Of what this run has to do, the share that is done. */
export function progressOf(run: Run, coverage: Coverage): number {
  const done = run.embedded + run.failed
  const left = coverage.pending + coverage.missing
  return done + left === 0 ? 1 : done / (done + left)
}

function Progress({
  run,
  coverage,
  followed,
}: {
  run: Run
  coverage: Coverage
  followed: boolean
}) {
  const progress = progressOf(run, coverage)
  return (
    <div className={css.progress} data-testid="progress">
      <p className={css.large}>
        <span className="num">{Math.floor(100 * progress)} %</span>
        <span className="quiet">
          backfill {run.id}, {run.state}
        </span>
      </p>
      <Meter value={progress} label={`Progress of backfill ${run.id}`} />
      <dl className={css.facts}>
        <Fact name="Embedded" value={count(run.embedded)} />
        <Fact name="Left" value={count(coverage.pending + coverage.missing)} />
        <Fact name="Failed" value={count(run.failed)} tone={run.failed ? 'bad' : undefined} />
        <Fact name="Rate" value={perSecond(coverage.rate) || 'measuring'} />
        <Fact
          name="Time left"
          value={coverage.etaSeconds === null ? 'measuring' : span(coverage.etaSeconds)}
        />
        <Fact name="Workers" value={count(coverage.workers)} />
      </dl>
      {!followed && (
        <p className={css.warn}>
          The connection is lost. These figures are from before; they go on with the connection.
        </p>
      )}
    </div>
  )
}

function Rest({ collection, run }: { collection: CollectionStatus; run: Run | undefined }) {
  const { pending, missing, failed, complete } = collection.coverage
  const due = pending + missing
  return (
    <div className={css.progress}>
      <p className={css.large} data-testid="backfill-rest">
        {complete && failed === 0 && 'Everything is embedded.'}
        {due > 0 && `${count(due)} ${due === 1 ? 'row waits' : 'rows wait'} for a vector.`}
        {due === 0 &&
          failed > 0 &&
          `${count(failed)} ${failed === 1 ? 'row' : 'rows'} could not be embedded.`}
      </p>
      {run ? <Outcome run={run} /> : <p className="quiet">No backfill has been run yet.</p>}
    </div>
  )
}

/** One run in words and figures. */
export function Outcome({ run }: { run: Run }) {
  return (
    <>
      <p className="quiet" role="status" data-testid="last-run">
        Backfill {run.id} {ENDED[run.state]} after {span(run.seconds)}.
      </p>
      <dl className={css.facts}>
        <Fact name="Embedded" value={count(run.embedded)} />
        <Fact name="Of these reused" value={count(run.reused)} />
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

const ENDED: Record<Run['state'], string> = {
  running: 'has been running',
  cancelling: 'is ending',
  completed: 'ended',
  cancelled: 'was cancelled',
  interrupted: 'was interrupted',
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
