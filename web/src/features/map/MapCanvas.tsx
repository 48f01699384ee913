import { type Ref, useEffect, useImperativeHandle, useLayoutEffect, useMemo, useRef } from 'react'
import { useCssValues } from '@/shared/theme/useCssValues'
import type { Cloud } from './cloud'
import { MapController, type Told } from './controller'
import css from './map.module.css'
import type { Lit } from './painter'

const CATEGORY_NAMES = Array.from({ length: 14 }, (_, at) => `--cat-${at + 1}` as const)
const COLOURS = [...CATEGORY_NAMES, '--panel', '--line', '--ink', '--ink-2', '--accent'] as const

export interface MapCanvasProps extends Told {
  ref: Ref<MapController | null>
  cloud: Cloud
  lit: Pick<Lit, 'hits' | 'query' | 'selected'>
  hidden: ReadonlySet<string>
  label: string
}

/** The canvas; panning, zooming and pointing happen in the controller, without React. */
export function MapCanvas({
  ref,
  cloud,
  lit,
  hidden,
  label,
  onPick,
  onMoving,
  onSettled,
}: MapCanvasProps) {
  const canvas = useRef<HTMLCanvasElement>(null)
  const beside = useRef<HTMLDivElement>(null)
  const controller = useRef<MapController>(null)
  const values = useCssValues(COLOURS)
  const colours = useMemo(
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
  useLayoutEffect(() => {
    if (!canvas.current || !beside.current) return
    const made = new MapController(canvas.current, beside.current)
    controller.current = made
    return () => {
      made.destroy()
      controller.current = null
    }
  }, [])
  useImperativeHandle(ref, () => controller.current as MapController, [])
  useEffect(() => {
    if (controller.current) controller.current.told = { onPick, onMoving, onSettled }
  }, [onPick, onMoving, onSettled])
  useEffect(() => controller.current?.show({ cloud, colours, hidden }), [cloud, colours, hidden])
  useEffect(() => controller.current?.light(lit), [lit])
  return (
    <div className={css.stage}>
      <div
        className={css.focus}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: its keys move the map
        tabIndex={0}
        role="application"
        aria-roledescription="map"
        aria-label={label}
      >
        <canvas ref={canvas} className={css.canvas} data-testid="map-canvas" />
      </div>
      <div ref={beside} className={css.label} hidden data-testid="map-label">
        <strong />
        <span />
      </div>
    </div>
  )
}
