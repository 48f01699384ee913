import { type RefObject, useCallback, useLayoutEffect, useMemo, useRef, useState } from 'react'
import type { Cloud } from './cloud'
import type { MapController } from './controller'
import type { Bounds, Point, View } from './view'

interface EntriesInViewOptions {
  cloud: Cloud
  hidden: ReadonlySet<string>
  /** Centre and zoom in the address. */
  at: string
  set: (changes: { at: string }) => void
  controller: RefObject<MapController | null>
}

interface EntriesInView {
  /** The panel with the list. It is busy while the list is out of date. */
  listRef: RefObject<HTMLElement | null>
  /** Indexes of the points in view. */
  entries: readonly number[]
  onMoving: () => void
  onSettled: (view: View, bounds: Bounds) => void
}

/** Return the entries in view after each movement, and keep the view in the address. */
export function useEntriesInView(options: EntriesInViewOptions): EntriesInView {
  const { cloud, hidden, at, set, controller } = options
  const listRef = useRef<HTMLElement>(null)
  const [bounds, setBounds] = useState<Bounds | null>(null)
  /** The view of the address at the first render, until it is restored. */
  const initial = useRef(at)
  const onSettled = useCallback(
    (view: View, settledBounds: Bounds) => {
      const map = controller.current
      if (!map) return
      const target = parsedView(initial.current)
      initial.current = ''
      if (target) return map.goTo(target, target.zoom)
      setBounds(settledBounds)
      set({ at: map.whole ? '' : [view.x, view.y, map.zoom].map((n) => n.toFixed(3)).join() })
    },
    [set, controller],
  )
  const entries = useMemo(
    () => (bounds ? cloud.within(bounds, hidden) : []),
    [bounds, cloud, hidden],
  )
  // Set the attribute directly, because a movement of the map must not render the page.
  const setBusy = useCallback((busy: boolean) => {
    listRef.current?.setAttribute('aria-busy', String(busy))
  }, [])
  const onMoving = useCallback(() => setBusy(true), [setBusy])
  useLayoutEffect(() => setBusy(bounds === null), [setBusy, bounds])
  return { listRef, entries, onMoving, onSettled }
}

/** Parse x,y,zoom. Return null for any other text. */
function parsedView(text: string): (Point & { zoom: number }) | null {
  const [x, y, zoom, ...more] = text.split(',').map(Number)
  if (x === undefined || y === undefined || zoom === undefined || more.length) return null
  return [x, y, zoom].every(Number.isFinite) && zoom > 0 ? { x, y, zoom } : null
}
