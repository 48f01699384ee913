/** The model of a collection, and the change to another one while it is searched. */
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect, useState } from 'react'
import { useAction } from '@/shared/actions/useAction'
import { modelChangeQuery } from '@/shared/api/queries'
import {
  type CollectionStatus,
  type ModelChangeStatus,
  type ModelChangeStep,
  OfflineError,
} from '@/shared/bridge/codetteBridge'
import { useBridge } from '@/shared/bridge/context'
import { percent } from '@/shared/format/numbers'
import { ActionButton, ErrorState, Meter, Panel, Skeleton } from '@/shared/ui'
import { notify } from '@/shared/ui/Notices'
import css from './coverage.module.css'
import { count } from './format'
import { BeginDialog, StepDialog } from './ModelChangeDialogs'

type OpenDialog = 'begin' | ModelChangeStep | null

export function ModelChange({ collection }: { collection: CollectionStatus }) {
  const bridge = useBridge()
  const queries = useQueryClient()
  const [dialog, open] = useState<OpenDialog>(null)
  const query = modelChangeQuery(bridge, collection.name)
  const { data, error, refetch } = useQuery(query)
  const state = data?.change?.state
  // biome-ignore lint/correctness/useExhaustiveDependencies: the list of collections has the state
  useEffect(() => {
    void queries.invalidateQueries({ queryKey: ['status'] })
  }, [queries, state])
  const show = (status: ModelChangeStatus) => {
    queries.setQueryData<ModelChangeStatus>(query.queryKey, status)
    void queries.invalidateQueries({ queryKey: ['status'] })
  }
  const permits = (step: ModelChangeStatus['permitted'][number]) =>
    data?.permitted.includes(step) ?? false
  useAction('modelChange.begin', () => open('begin'), {
    enabled: data !== undefined && data.permitted.length === 0,
  })
  useAction(
    'modelChange.continue',
    async () => show(await bridge.beginModelChange(collection.name)),
    { enabled: permits('continue') && !data?.running },
  )
  useAction('modelChange.cutover', () => open('cutover'), { enabled: permits('cutover') })
  useAction('modelChange.rollback', () => open('rollback'), { enabled: permits('rollback') })
  useAction('modelChange.retire', () => open('retire'), { enabled: permits('retire') })
  useAction('modelChange.cancel', () => open('cancel'), { enabled: permits('cancel') })
  const done = (status: ModelChangeStatus, words: string) => {
    show(status)
    open(null)
    notify(words, 'ok')
  }
  return (
    <Panel title="Model" actions={data && <Steps status={data} />}>
      {data ? (
        <ChangeState status={data} />
      ) : error && !(error instanceof OfflineError) ? (
        <ErrorState error={error} onRetry={() => void refetch()} />
      ) : (
        <Skeleton height={60} />
      )}
      {data && dialog === 'begin' && (
        <BeginDialog status={data} onClose={() => open(null)} onDone={done} />
      )}
      {data?.change && dialog !== null && dialog !== 'begin' && (
        <StepDialog change={data.change} step={dialog} onClose={() => open(null)} onDone={done} />
      )}
    </Panel>
  )
}

/** The buttons for what the state permits. */
function Steps({ status: { permitted, running, change } }: { status: ModelChangeStatus }) {
  const can = new Set(permitted)
  return (
    <span className={css.steps} data-testid="model-steps">
      {can.size === 0 && <ActionButton action="modelChange.begin" size="small" />}
      {can.has('continue') && !running && change?.state !== 'ready' && (
        <ActionButton action="modelChange.continue" size="small">
          Continue
        </ActionButton>
      )}
      {can.has('cancel') && (
        <ActionButton action="modelChange.cancel" size="small" kind="danger">
          Cancel change
        </ActionButton>
      )}
      {can.has('cutover') && (
        <ActionButton action="modelChange.cutover" size="small" kind="primary" />
      )}
      {can.has('rollback') && <ActionButton action="modelChange.rollback" size="small" />}
      {can.has('retire') && <ActionButton action="modelChange.retire" size="small" kind="danger" />}
    </span>
  )
}

/** Say what is searched, and what the other vectors are. */
export function summaryOf({ change }: ModelChangeStatus): string {
  if (!change) return 'The model was not changed yet.'
  const { formerModel, newModel, frozen } = change
  switch (change.state) {
    case 'filling':
      return `${newModel} is being filled. ${formerModel} is searched.`
    case 'indexing':
      return `The indexes of ${newModel} are being built. ${formerModel} is searched.`
    case 'ready':
      return `${newModel} is ready. ${formerModel} is searched until you cut over.`
    case 'serving':
      return frozen
        ? `${newModel} is searched. The vectors of ${formerModel} are frozen.`
        : `${newModel} is searched. Edits also reach ${formerModel}, for a rollback.`
    case 'retiring':
      return `${newModel} is searched. The vectors of ${formerModel} are being dropped.`
    case 'cancelling':
      return `${formerModel} is searched. The vectors of ${newModel} are being dropped.`
    case 'retired':
      return `Changed from ${formerModel} to ${newModel}.`
    case 'cancelled':
      return `The change to ${newModel} was cancelled.`
  }
}

/** The state of the last change, with the coverage of the vectors that are not searched. */
export function ChangeState({ status }: { status: ModelChangeStatus }) {
  const { target, stopped } = status
  return (
    <div className={css.progress} data-testid="model-change">
      <p role="status">{summaryOf(status)}</p>
      {target && target.coverage.ratio !== null && (
        <>
          <Meter
            value={target.coverage.ratio}
            label={`Coverage of ${target.name}`}
            colour={target.coverage.complete ? '--ok' : '--accent'}
          />
          <p className="quiet">
            {percent(target.coverage.ratio)} of {target.name}: {count(target.coverage.embedded)}{' '}
            embedded, {count(target.coverage.pending + target.coverage.missing)} left,{' '}
            {count(target.coverage.failed)} failed.
          </p>
        </>
      )}
      {stopped && (
        <p role="alert" className={css.stopped}>
          The server does not go on by itself: {stopped}
        </p>
      )}
    </div>
  )
}
