/** The actions that start and cancel a backfill, available in every view. */
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect } from 'react'
import { useAction, useFacts } from '@/shared/actions/useAction'
import { runsQuery } from '@/shared/api/queries'
import type { Run } from '@/shared/bridge/codetteBridge'
import { useBridge } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { notify } from '@/shared/ui/Notices'
import { activeRun } from './history'

const POLL_MS = 2_000

/** Bind the backfill actions of the selected collection. */
export function useBackfillActions(): void {
  const bridge = useBridge()
  const queries = useQueryClient()
  const { name } = useCollection()
  const { data: runs } = useQuery({
    ...runsQuery(bridge, name),
    // The server sends no event for a run that ends before its first progress check.
    refetchInterval: ({ state }) => (activeRun(state.data ?? []) ? POLL_MS : false),
  })
  const active = runs && activeRun(runs)
  const id = active?.id
  // biome-ignore lint/correctness/useExhaustiveDependencies: `id` changes when a run starts or ends
  useEffect(() => {
    void queries.invalidateQueries({ queryKey: ['status'] })
  }, [queries, id])
  useFacts({
    'backfill.idle': runs !== undefined && !active,
    'backfill.running': active?.state === 'running',
  })
  const cacheRun = (run: Run) => {
    const { queryKey } = runsQuery(bridge, run.collection)
    queries.setQueryData<Run[]>(queryKey, (cached = []) => [
      run,
      ...cached.filter(({ id }) => id !== run.id),
    ])
  }
  useAction('backfill.start', async () => {
    const run = await bridge.startRun({ collection: name })
    cacheRun(run)
    notify(`Backfill ${run.id} of ${name} started`)
  })
  useAction('backfill.cancel', async () => {
    if (active) cacheRun(await bridge.cancelRun(active.id))
  })
  useAction('coverage.refresh', () => queries.invalidateQueries())
}
