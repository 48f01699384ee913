/** Backfills can be started and stopped from every view. */
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useAction, useFacts } from '@/shared/actions/useAction'
import { runsQuery } from '@/shared/api/queries'
import type { Run } from '@/shared/bridge/codetteBridge'
import { useBridge } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { notify } from '@/shared/ui/Notices'
import { underWay } from './history'

export function useBackfillActions(): void {
  const bridge = useBridge()
  const queries = useQueryClient()
  const { name } = useCollection()
  const { data: runs } = useQuery(runsQuery(bridge, name))
  const active = runs && underWay(runs)
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
