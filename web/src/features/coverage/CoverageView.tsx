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
import { Failures } from './Failures'
import { underWay } from './history'
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
      <EmptyState title="No collection yet">
        A collection is a table whose rows are embedded. Declare one with: backline add TABLE --text
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
      {collection ? (
        <OfOne key={collection.name} collection={collection} />
      ) : (
        <EmptyState title={`There is no collection ${selected}`}>
          Choose one of those above.
        </EmptyState>
      )}
    </>
  )
}

function OfOne({ collection }: { collection: CollectionStatus }) {
  const bridge = useBridge()
  const { online } = useConnection()
  const [{ run: selected, after }, set] = useUrlState(SCHEMA)
  const runs = useQuery(runsQuery(bridge, collection.name))
  const failures = useQuery(failuresQuery(bridge, collection.name, after))
  const { failed } = collection.coverage
  useFacts({ 'failures.any': failed > 0 })
  const listed = failures.data?.total
  const { refetch } = failures
  useEffect(() => {
    // The count is told whenever it changes; the list follows it.
    if (listed !== undefined && listed !== failed) void refetch()
  }, [failed, listed, refetch])
  useAction('run.select', ({ run }) => set({ run }))
  useAction('failure.page', ({ after: next }) => set({ after: next }))
  useRetries(collection.name)
  const shown = runs.data && (underWay(runs.data) ?? runs.data[0])
  return (
    <div className={css.columns}>
      <div className={css.column}>
        <Backfill collection={collection} run={shown} followed={online} />
        <Runs
          runs={runs.data}
          error={runs.data ? null : runs.error}
          onRead={() => void runs.refetch()}
          selected={selected}
        />
      </div>
      <Failures
        page={failures.data}
        error={failures.data ? null : failures.error}
        onRead={() => void failures.refetch()}
        after={after}
      />
    </div>
  )
}

/** Dead letters go back into the queue; the next backfill, or the server's worker, takes them up. */
function useRetries(collection: string): void {
  const bridge = useBridge()
  const queries = useQueryClient()
  const retry = async (of: string, keys?: string[]) => {
    const retried = await bridge.retryFailures({ collection: of, ...(keys && { keys }) })
    await queries.invalidateQueries({ queryKey: ['failures', of] })
    void queries.invalidateQueries({ queryKey: ['status'] })
    notify(`${retried} ${retried === 1 ? 'row is' : 'rows are'} in the queue again.`, 'ok')
  }
  useAction('failure.retry', ({ collection: of, key }) => retry(of, [key]))
  useAction('failure.retryAll', () => retry(collection))
}
