/** The actions of the map. */
import { NOTHING } from '@/shared/actions/registry'
import { useAction, useFacts } from '@/shared/actions/useAction'
import type { Cloud } from './cloud'
import type { MapController } from './controller'
import type { Point } from './view'

interface MapActionOptions {
  controller: () => MapController | null
  cloud: Cloud | null
  hidden: ReadonlySet<string>
  setHidden: (hidden: readonly string[]) => void
  selected: number
  select: (index: number) => void
  /** Positions of the hits and the query. */
  hits: readonly Point[]
}

export function useMapActions(options: MapActionOptions): void {
  useMovement(options)
  useCategoryFilter(options)
  const { controller, cloud, hidden, selected, select } = options
  const step = (direction: 1 | -1) => {
    const centre = controller()?.centre
    if (cloud && centre) select(cloud.neighbour(selected, direction, centre, hidden))
  }
  useAction('map.nearestNext', () => step(1))
  useAction('map.nearestPrevious', () => step(-1))
}

function useMovement({ controller, hits }: MapActionOptions): void {
  useAction('map.zoomIn', () => controller()?.zoomBy(1))
  useAction('map.zoomOut', () => controller()?.zoomBy(-1))
  useAction('map.fit', () => controller()?.fit())
  useAction('map.panLeft', () => controller()?.panBy(-1, 0))
  useAction('map.panRight', () => controller()?.panBy(1, 0))
  useAction('map.panUp', () => controller()?.panBy(0, -1))
  useAction('map.panDown', () => controller()?.panBy(0, 1))
  useAction('map.zoomToHits', () => controller()?.fitPoints(hits))
}

function useCategoryFilter({ hidden, setHidden }: MapActionOptions): void {
  const change = (names: readonly string[]) => {
    const before = [...hidden]
    setHidden(names)
    return before
  }
  const undo = (_: unknown, before: readonly string[] | typeof NOTHING) => {
    if (typeof before === 'object') setHidden(before)
  }
  useFacts({ 'map.hidden': hidden.size > 0 })
  useAction(
    'map.toggleCategory',
    ({ category }) => {
      const others = [...hidden].filter((name) => name !== category)
      return change(hidden.has(category) ? others : [...others, category])
    },
    { undo },
  )
  useAction('map.showAll', () => (hidden.size ? change([]) : NOTHING), { undo })
}
