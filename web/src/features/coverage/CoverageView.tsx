import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect } from 'react'
import { runAction, useAction, useFacts } from '@/shared/actions/useAction'
import { failuresQuery, runsQuery, statusQuery } from '@/shared/api/queries'
import type { CollectionStatus } from '@/shared/bridge/codetteBridge'
import { useBridge, useConnection } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { EmptyState, ErrorState, Skeleton } from '@/shared/ui'
import { notify } from '@/shared/ui/Notices'
import { param, useUrlState } from '@/shared/url'
import { Backfill } from './Backfill'
import { Collections } from './Collections'
import css from './coverage.module.css'
import { Evaluation } from './Evaluation'
import { Failures } from './Failures'
import { activeRun } from './history'
import { ModelChange } from './ModelChange'
import { Problems } from './Problems'
import { Runs } from './Runs'

const SCHEMA = { run: param.number(null, 1), after: param.optional() }

export default function CoverageView() {
  const status = useQuery(statusQuery(useBridge()))
  const { name } = useCollection()
  return (
    <div className={css.view}>
      <h1 className="hidden-text">Coverage</h1>
      {status.data ? (
        <Loaded collections={status.data.collections} selected={name} />
      ) : status.error ? (
        <ErrorState error={status.error} onRetry={() => void status.refetch()} />
      ) : (
        <Loading />
      )}
    </div>
  )
}

function Loading() {
  return (
    <div aria-busy="true" className={css.view}>
      <span className="hidden-text">Loading</span>
      <Skeleton height={110} />
      <Skeleton height={180} />
      <Skeleton height={320} />
    </div>
  )
}

function Loaded({ collections, selected }: { collections: CollectionStatus[]; selected: string }) {
  const collection = collections.find(({ name }) => name === selected)
  if (collections.length === 0) {
    return (
      <EmptyState title="No collections yet">
        A collection is a table whose rows are embedded. Declare one with backline add TABLE --text
        "{'{title} {body}'}"
      </EmptyState>
    )
  }
  return (
    <>
      <Collections
        collections={collections}
        selected={selected}
        onSelect={(name) => void runAction('collection.select', { collection: name })}
      />
      {collection && (
        <Problems
          problems={[
            ...collection.coverage.problems,
            ...(collection.modelEnd ? [collection.modelEnd] : []),
          ]}
        />
      )}
      {collection ? (
        <CollectionDetails
          key={collection.name}
          collection={collection}
          hasCandidate={collection.target?.role === 'filling'}
        />
      ) : (
        <EmptyState title={`Collection “${selected}” not found`}>
          Choose a collection in the table above.
        </EmptyState>
      )}
    </>
  )
}

function CollectionDetails({
  collection,
  hasCandidate,
}: {
  collection: CollectionStatus
  hasCandidate: boolean
}) {
  const bridge = useBridge()
  const { online } = useConnection()
  const [{ run: selected, after }, set] = useUrlState(SCHEMA)
  const runs = useQuery(runsQuery(bridge, collection.name))
  const failures = useQuery(failuresQuery(bridge, collection.name, after))
  const { failed } = collection.coverage
  useFacts({ 'failures.any': failed > 0 })
  const listedTotal = failures.data?.total
  const { refetch } = failures
  useEffect(() => {
    // Coverage events update the count. Read the list again when the counts differ.
    if (listedTotal !== undefined && listedTotal !== failed) void refetch()
  }, [failed, listedTotal, refetch])
  useAction('run.select', ({ run }) => set({ run }))
  useAction('failure.page', ({ after: next }) => set({ after: next }))
  useRetries(collection.name)
  const run = runs.data && (activeRun(runs.data) ?? runs.data[0])
  return (
    <div className={css.columns}>
      <div className={css.column}>
        <Backfill collection={collection} run={run} live={online} />
        <Runs
          runs={runs.data}
          error={runs.data ? null : runs.error}
          onRetry={() => void runs.refetch()}
          selected={selected}
        />
        <ModelChange collection={collection} />
        <Evaluation collection={collection.name} hasCandidate={hasCandidate} />
      </div>
      <Failures
        page={failures.data}
        error={failures.data ? null : failures.error}
        onRetry={() => void failures.refetch()}
        after={after}
      />
    </div>
  )
}

/** Bind the actions that requeue dead letters for the next backfill or the server's worker. */
function useRetries(collection: string): void {
  const bridge = useBridge()
  const queries = useQueryClient()
  const retry = async (name: string, keys?: string[]) => {
    const retried = await bridge.retryFailures({ collection: name, ...(keys && { keys }) })
    await queries.invalidateQueries({ queryKey: ['failures', name] })
    void queries.invalidateQueries({ queryKey: ['status'] })
    notify(`Requeued ${retried} ${retried === 1 ? 'row' : 'rows'}`, 'ok')
  }
  useAction('failure.retry', ({ collection: name, key }) => retry(name, [key]))
  useAction('failure.retryAll', () => retry(collection))
}
