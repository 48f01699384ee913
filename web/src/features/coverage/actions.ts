/** Backfills can be started and stopped from every view. */
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useEffect } from 'react'
import { useAction, useFacts } from '@/shared/actions/useAction'
import { runsQuery } from '@/shared/api/queries'
import type { Run } from '@/shared/bridge/codetteBridge'
import { useBridge } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { notify } from '@/shared/ui/Notices'
import { underWay } from './history'

const LOOKS_MS = 2_000

export function useBackfillActions(): void {
  const bridge = useBridge()
  const queries = useQueryClient()
  const { name } = useCollection()
  const { data: runs } = useQuery({
    ...runsQuery(bridge, name),
    // A run that ends within its first moments is told to nobody.
    refetchInterval: ({ state }) => (underWay(state.data ?? []) ? LOOKS_MS : false),
  })
  const active = runs && underWay(runs)
  const id = active?.id
  // biome-ignore lint/correctness/useExhaustiveDependencies: it is read again when a run begins or ends
  useEffect(() => {
    void queries.invalidateQueries({ queryKey: ['status'] })
  }, [queries, id])
  useFacts({
    'backfill.idle': runs !== undefined && !active,
    'backfill.running': active?.state === 'running',
  })
  const show = (run: Run) => {
    const { queryKey } = runsQuery(bridge, run.collection)
    queries.setQueryData<Run[]>(queryKey, (known = []) => [
      run,
      ...known.filter(({ id }) => id !== run.id),
    ])
  }
  useAction('backfill.start', async () => {
    const run = await bridge.startRun({ collection: name })
    show(run)
    notify(`Backfill ${run.id} of ${name} has started.`)
  })
  useAction('backfill.cancel', async () => {
    if (active) show(await bridge.cancelRun(active.id))
  })
  useAction('coverage.refresh', () => queries.invalidateQueries())
}
