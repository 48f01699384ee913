/** Writes the server's events to the query cache. */
import { type QueryClient, useQueryClient } from '@tanstack/react-query'
import { useEffect } from 'react'
import type {
  BridgeEvents,
  CodetteBridge,
  Coverage,
  Run,
  Status,
} from '@/shared/bridge/codetteBridge'
import { useBridge, useTopics } from '@/shared/bridge/context'

const TOPICS = ['run_progress', 'coverage_changed', 'failure_added'] as const

function updateCoverage(queries: QueryClient, name: string, coverage: Coverage): void {
  queries.setQueryData<Status>(
    ['status'],
    (status) =>
      status && {
        ...status,
        collections: status.collections.map((collection) =>
          collection.name === name ? { ...collection, coverage } : collection,
        ),
      },
  )
}

function updateRun(queries: QueryClient, run: Run): void {
  const cached = queries.getQueriesData<Run[]>({ queryKey: ['runs', run.collection] })
  // A new run marks dead runs as interrupted, and the server sends no event for those.
  if (cached.some(([, runs]) => runs && !runs.some(({ id }) => id === run.id))) {
    void queries.invalidateQueries({ queryKey: ['runs', run.collection] })
  }
  queries.setQueriesData<Run[]>({ queryKey: ['runs', run.collection] }, (runs) => {
    if (!runs) return runs
    const exists = runs.some(({ id }) => id === run.id)
    return exists ? runs.map((other) => (other.id === run.id ? run : other)) : [run, ...runs]
  })
}

function subscribe(bridge: CodetteBridge, queries: QueryClient): () => void {
  const onProgress = ({ run, coverage }: BridgeEvents['run_progress']) => {
    updateRun(queries, run)
    updateCoverage(queries, run.collection, coverage)
  }
  const unsubscribes = [
    bridge.on('server_status', (status) => queries.setQueryData(['status'], status)),
    bridge.on('run_progress', onProgress),
    bridge.on('coverage_changed', ({ collection, coverage }) =>
      updateCoverage(queries, collection, coverage),
    ),
    bridge.on('failure_added', ({ collection }) => {
      void queries.invalidateQueries({ queryKey: ['failures', collection] })
    }),
    bridge.on('reconnected', () => void queries.invalidateQueries()),
    bridge.on('authenticated', () => void queries.invalidateQueries()),
  ]
  return () => {
    for (const unsubscribe of unsubscribes) unsubscribe()
  }
}

export function useLive(): void {
  const bridge = useBridge()
  const queries = useQueryClient()
  useTopics(TOPICS)
  useEffect(() => subscribe(bridge, queries), [bridge, queries])
}
