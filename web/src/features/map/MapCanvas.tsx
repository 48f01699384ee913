import { type Ref, useEffect, useImperativeHandle, useLayoutEffect, useMemo, useRef } from 'react'
import { useCssValues } from '@/shared/theme/useCssValues'
import type { Cloud } from './cloud'
import { MapController, type MapHandlers } from './controller'
import css from './map.module.css'
import type { Colours, Highlights } from './painter'

const CATEGORY_NAMES = Array.from({ length: 14 }, (_, index) => `--cat-${index + 1}` as const)
const COLOURS = [...CATEGORY_NAMES, '--panel', '--line', '--ink', '--ink-2', '--accent'] as const

export interface MapCanvasProps extends MapHandlers {
  ref: Ref<MapController | null>
  cloud: Cloud
  highlights: Pick<Highlights, 'hits' | 'query' | 'selected'>
  hidden: ReadonlySet<string>
  label: string
}

/** The canvas of the map. The controller pans, zooms and hovers without React. */
export function MapCanvas({
  ref,
  cloud,
  highlights,
  hidden,
  label,
  onPick,
  onMoving,
  onSettled,
}: MapCanvasProps) {
  const canvas = useRef<HTMLCanvasElement>(null)
  const labelBox = useRef<HTMLDivElement>(null)
  const controller = useRef<MapController>(null)
  const colours = useColours()
  useLayoutEffect(() => {
    if (!canvas.current || !labelBox.current) return
    const created = new MapController(canvas.current, labelBox.current)
    controller.current = created
    return () => {
      created.destroy()
      controller.current = null
    }
  }, [])
  useImperativeHandle(ref, () => controller.current as MapController, [])
  useEffect(() => {
    if (controller.current) controller.current.handlers = { onPick, onMoving, onSettled }
  }, [onPick, onMoving, onSettled])
  useEffect(() => controller.current?.update({ cloud, colours, hidden }), [cloud, colours, hidden])
  useEffect(() => controller.current?.highlight(highlights), [highlights])
  return (
    <div className={css.stage}>
      <div
        className={css.focus}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: arrow keys move the map
        tabIndex={0}
        role="application"
        aria-roledescription="map"
        aria-label={label}
      >
        <canvas ref={canvas} className={css.canvas} data-testid="map-canvas" />
      </div>
      <div ref={labelBox} className={css.label} hidden data-testid="map-label">
        <strong />
        <span />
      </div>
    </div>
  )
}

/** Return the colours of the current theme. */
function useColours(): Colours {
  const values = useCssValues(COLOURS)
  return useMemo(
    () => ({
      categories: values,
      background: values['--panel'],
      grid: values['--line'],
      ink: values['--ink'],
      accent: values['--accent'],
      font: '"Barlow", sans-serif',
    }),
    [values],
  )
}
