/** What the keyboard, the palette and the buttons do with the map. */
import { NOTHING } from '@/shared/actions/registry'
import { useAction, useFacts } from '@/shared/actions/useAction'
import type { Cloud } from './cloud'
import type { MapController } from './controller'
import type { Point } from './view'

interface Given {
  controller: () => MapController | null
  cloud: Cloud | null
  hidden: ReadonlySet<string>
  setHidden: (hidden: readonly string[]) => void
  selected: number
  select: (at: number) => void
  /** The question and its hits. */
  found: readonly Point[]
}

export function useMapActions(given: Given): void {
  useMoves(given)
  useHiding(given)
  const { controller, cloud, hidden, selected, select } = given
  const step = (by: 1 | -1) => {
    const middle = controller()?.middle
    if (cloud && middle) select(cloud.neighbour(selected, by, middle, hidden))
  }
  useAction('map.nearestNext', () => step(1))
  useAction('map.nearestPrevious', () => step(-1))
}

function useMoves({ controller, found }: Given): void {
  useAction('map.zoomIn', () => controller()?.zoomBy(1))
  useAction('map.zoomOut', () => controller()?.zoomBy(-1))
  useAction('map.fit', () => controller()?.fit())
  useAction('map.panLeft', () => controller()?.panBy(-1, 0))
  useAction('map.panRight', () => controller()?.panBy(1, 0))
  useAction('map.panUp', () => controller()?.panBy(0, -1))
  useAction('map.panDown', () => controller()?.panBy(0, 1))
  useAction('map.zoomToHits', () => controller()?.fitPoints(found))
}

function useHiding({ hidden, setHidden }: Given): void {
  const change = (to: readonly string[]) => {
    const before = [...hidden]
    setHidden(to)
    return before
  }
  const undo = (_: unknown, before: readonly string[] | typeof NOTHING) => {
    if (typeof before === 'object') setHidden(before)
  }
  useFacts({ 'map.hidden': hidden.size > 0 })
  useAction(
    'map.toggleCategory',
    ({ category }) => {
      const others = [...hidden].filter((each) => each !== category)
      return change(hidden.has(category) ? others : [...others, category])
    },
    { undo },
  )
  useAction('map.showAll', () => (hidden.size ? change([]) : NOTHING), { undo })
}
