/** What the server tells by itself goes into the same cache that reads fill. */
import { type QueryClient, useQueryClient } from '@tanstack/react-query'
import { useEffect } from 'react'
import type {
  BridgeEvents,
  CodetteBridge,
  Coverage,
  Run,
  Status,
} from '../shared/bridge/codetteBridge'
import { useBridge, useTopics } from '../shared/bridge/context'

const TOPICS = ['run_progress', 'coverage_changed', 'failure_added'] as const

function coverageInto(queries: QueryClient, name: string, coverage: Coverage): void {
  queries.setQueryData<Status>(
    ['status'],
    (status) =>
      status && {
        ...status,
        collections: status.collections.map((each) =>
          each.name === name ? { ...each, coverage } : each,
        ),
      },
  )
}

function runInto(queries: QueryClient, run: Run): void {
  const listed = queries.getQueriesData<Run[]>({ queryKey: ['runs', run.collection] })
  // A run that begins finds those that died before; nobody tells of them.
  if (listed.some(([, runs]) => runs && !runs.some(({ id }) => id === run.id))) {
    void queries.invalidateQueries({ queryKey: ['runs', run.collection] })
  }
  queries.setQueriesData<Run[]>({ queryKey: ['runs', run.collection] }, (runs) => {
    if (!runs) return runs
    const known = runs.some(({ id }) => id === run.id)
    return known ? runs.map((each) => (each.id === run.id ? run : each)) : [run, ...runs]
  })
}

function listen(bridge: CodetteBridge, queries: QueryClient): () => void {
  const progress = ({ run, coverage }: BridgeEvents['run_progress']) => {
    runInto(queries, run)
    coverageInto(queries, run.collection, coverage)
  }
  const offs = [
    bridge.on('server_status', (status) => queries.setQueryData(['status'], status)),
    bridge.on('run_progress', progress),
    bridge.on('coverage_changed', ({ collection, coverage }) =>
      coverageInto(queries, collection, coverage),
    ),
    bridge.on('failure_added', ({ collection }) => {
      void queries.invalidateQueries({ queryKey: ['failures', collection] })
    }),
    bridge.on('reconnected', () => void queries.invalidateQueries()),
    bridge.on('authenticated', () => void queries.invalidateQueries()),
  ]
  return () => {
    for (const off of offs) off()
  }
}

export function useLive(): void {
  const bridge = useBridge()
  const queries = useQueryClient()
  useTopics(TOPICS)
  useEffect(() => listen(bridge, queries), [bridge, queries])
}
