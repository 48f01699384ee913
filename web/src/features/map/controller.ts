/**
 * Pans, zooms and hovers the map on a canvas. React renders only when the view has settled,
 * because a render per frame would make panning slow.
 */
import type { Cloud } from './cloud'
import { type Highlights, Painter } from './painter'
import {
  type Bounds,
  boundsOf,
  clamped,
  fitTo,
  MARGIN,
  type Point,
  panned,
  toMap,
  toScreen,
  type View,
  visibleBounds,
  zoomed,
} from './view'

export interface MapHandlers {
  /** The user clicked a point, or the background for -1. */
  onPick: (index: number) => void
  /** The view starts to move. */
  onMoving: () => void
  /** The view has settled. */
  onSettled: (view: View, bounds: Bounds) => void
}

const SETTLE_MS = 180
/** Maximum distance between the pointer and a hovered point in pixels. */
const HOVER_RADIUS = 14
/** A pointer that moves further than this in pixels drags instead of clicking. */
const CLICK_TOLERANCE = 4
const KEY_ZOOM = 1.5
const KEY_PAN = 0.18

export class MapController {
  readonly painter: Painter
  handlers: MapHandlers = { onPick: () => {}, onMoving: () => {}, onSettled: () => {} }
  readonly #canvas: HTMLCanvasElement
  readonly #label: HTMLElement
  readonly #pointers = new Map<number, Point>()
  readonly #observer: ResizeObserver
  readonly #listeners = new AbortController()
  #moved = 0
  #timer: ReturnType<typeof setTimeout> | undefined
  #whole = true
  #moving = false

  constructor(canvas: HTMLCanvasElement, label: HTMLElement) {
    this.#canvas = canvas
    this.#label = label
    const box = canvas.getBoundingClientRect()
    this.painter = new Painter(canvas, { width: box.width, height: box.height })
    this.#observer = new ResizeObserver(() => this.#resized())
    this.#observer.observe(canvas)
    this.#listen()
    this.#resized()
  }

  destroy(): void {
    clearTimeout(this.#timer)
    this.#listeners.abort()
    this.#observer.disconnect()
    this.painter.stop()
  }

  // --- content ---

  update(change: Partial<Pick<Painter, 'cloud' | 'colours' | 'hidden'>>): void {
    Object.assign(this.painter, change)
    this.#hover(-1)
    this.painter.requestDraw()
    this.#settle()
  }

  highlight(highlights: Pick<Highlights, 'hits' | 'query' | 'selected'>): void {
    this.painter.highlights = { ...this.painter.highlights, ...highlights }
    this.painter.requestDraw()
  }

  /** Zoom relative to the whole map. */
  get zoom(): number {
    return this.painter.view.scale / fitTo(this.painter.size).scale
  }

  /** Whether the view fits the whole map, also after a resize. */
  get whole(): boolean {
    return this.#whole
  }

  get centre(): Point {
    return this.painter.view
  }

  // --- movement ---

  fit(): void {
    this.#whole = true
    this.#setView(fitTo(this.painter.size))
  }

  /** Fit the view to points, with a margin for their labels. */
  fitPoints(points: readonly Point[]): void {
    if (points.length > 0) this.#go(fitTo(this.painter.size, boundsOf(points), 2 * MARGIN))
  }

  zoomBy(direction: 1 | -1): void {
    const { view, size } = this.painter
    const centre = { x: size.width / 2, y: size.height / 2 }
    this.#go(zoomed(view, size, KEY_ZOOM ** direction, centre))
  }

  /** Move the view by a fraction of its size. (1, 0) is to the right. */
  panBy(dx: number, dy: number): void {
    const { view, size } = this.painter
    const step = KEY_PAN * Math.min(size.width, size.height)
    this.#go(panned(view, -dx * step, -dy * step))
  }

  /** Move the centre of the view to a position and set the zoom. */
  goTo(centre: Point, zoom: number): void {
    const whole = fitTo(this.painter.size)
    this.#go({ ...whole, ...centre, scale: whole.scale * zoom })
  }

  /** Move the view to a position if it is not visible. */
  reveal(position: Point): void {
    const { view, size } = this.painter
    const { x, y } = toScreen(view, size, position)
    const inside = x > MARGIN && y > MARGIN && x < size.width - MARGIN && y <= size.height - MARGIN
    if (!inside) this.#go({ ...view, x: position.x, y: position.y })
  }

  #go(view: View): void {
    this.#whole = false
    this.#setView(clamped(view))
  }

  #setView(view: View): void {
    this.painter.view = view
    this.painter.requestDraw()
    this.#hover(-1)
    this.#settle()
  }

  #settle(): void {
    clearTimeout(this.#timer)
    if (!this.#moving) this.handlers.onMoving()
    this.#moving = true
    if (this.#pointers.size > 0) return // the view settles on release
    this.#timer = setTimeout(() => {
      const { view, size } = this.painter
      this.#moving = false
      this.handlers.onSettled(view, visibleBounds(view, size))
    }, SETTLE_MS)
  }

  #resized(): void {
    const { clientWidth: width, clientHeight: height } = this.#canvas
    if (!width || !height) return
    const zoom = this.zoom
    this.painter.resize({ width, height }, window.devicePixelRatio || 1)
    const whole = fitTo(this.painter.size)
    const { x, y } = this.painter.view
    this.painter.view = this.#whole ? whole : { ...whole, x, y, scale: whole.scale * zoom }
    this.#settle()
  }

  // --- pointers ---

  #listen(): void {
    const { signal } = this.#listeners
    const on = <K extends keyof HTMLElementEventMap>(
      type: K,
      handler: (event: HTMLElementEventMap[K]) => void,
    ) => this.#canvas.addEventListener(type, handler, { signal, passive: false })
    on('pointerdown', (event) => this.#down(event))
    on('pointermove', (event) => this.#move(event))
    on('pointerup', (event) => this.#up(event))
    on('pointercancel', (event) => this.#release(event))
    on('pointerleave', () => this.#hover(-1))
    on('wheel', (event) => this.#wheel(event))
    on('dblclick', (event) => this.#zoomAt(pixelOf(event), KEY_ZOOM * KEY_ZOOM))
  }

  #down(event: PointerEvent): void {
    if (event.button !== 0) return
    this.#canvas.setPointerCapture(event.pointerId)
    this.#pointers.set(event.pointerId, pixelOf(event))
    if (this.#pointers.size === 1) this.#moved = 0
  }

  #move(event: PointerEvent): void {
    const before = this.#pointers.get(event.pointerId)
    const now = pixelOf(event)
    if (!before) {
      this.#hover(this.#pointAt(now))
      return
    }
    this.#pointers.set(event.pointerId, now)
    this.#moved += Math.hypot(now.x - before.x, now.y - before.y)
    if (this.#pointers.size === 2) this.#pinch(event.pointerId, before, now)
    else if (this.#moved > CLICK_TOLERANCE) {
      this.#go(panned(this.painter.view, now.x - before.x, now.y - before.y))
    }
  }

  #pinch(id: number, before: Point, now: Point): void {
    const other = [...this.#pointers].find(([pointer]) => pointer !== id)?.[1]
    if (!other) return
    const distance = (pixel: Point) => Math.hypot(pixel.x - other.x, pixel.y - other.y)
    const centre = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 }
    const moved = panned(this.painter.view, (now.x - before.x) / 2, (now.y - before.y) / 2)
    const factor = distance(now) / Math.max(distance(before), 1)
    this.#go(zoomed(moved, this.painter.size, factor, centre))
  }

  #up(event: PointerEvent): void {
    const wasDown = this.#release(event)
    if (wasDown && this.#moved <= CLICK_TOLERANCE)
      this.handlers.onPick(this.#pointAt(pixelOf(event)))
  }

  #release(event: PointerEvent): boolean {
    const wasDown = this.#pointers.delete(event.pointerId)
    if (wasDown) this.#settle()
    return wasDown
  }

  #wheel(event: WheelEvent): void {
    event.preventDefault()
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 24 : 1
    const strength = event.ctrlKey ? 0.01 : 0.0018
    this.#zoomAt(pixelOf(event), Math.exp(-event.deltaY * lines * strength))
  }

  #zoomAt(pixel: Point, factor: number): void {
    this.#go(zoomed(this.painter.view, this.painter.size, factor, pixel))
  }

  #pointAt(pixel: Point): number {
    const { cloud, view, size, hidden } = this.painter
    if (!cloud) return -1
    return cloud.nearest(toMap(view, size, pixel), HOVER_RADIUS / view.scale, hidden)
  }

  /** Highlight a point and place its label, or hide the label for -1. */
  #hover(index: number): void {
    const { cloud, highlights } = this.painter
    this.#label.hidden = index < 0
    this.#canvas.dataset.hovered = index < 0 ? '' : (cloud?.key(index) ?? '')
    if (highlights.hovered !== index) {
      this.painter.highlights = { ...highlights, hovered: index }
      this.painter.requestDraw()
    }
    if (index >= 0 && cloud) this.#placeLabel(cloud, index)
  }

  /** Update the label without React: nothing else on the page changes while the pointer moves. */
  #placeLabel(cloud: Cloud, index: number): void {
    const { view, size } = this.painter
    const [title, category] = this.#label.children
    if (title) title.textContent = cloud.title(index)
    if (category) category.textContent = cloud.categoryOf(index).replaceAll('_', ' ')
    const point = toScreen(view, size, cloud.position(index))
    const left = Math.min(point.x + 14, size.width - this.#label.offsetWidth - 8)
    const fitsBelow = point.y + 16 + this.#label.offsetHeight < size.height
    const top = fitsBelow ? point.y + 14 : point.y - this.#label.offsetHeight - 12
    this.#label.style.transform = `translate(${Math.max(left, 8)}px, ${top}px)`
  }
}

function pixelOf(event: MouseEvent): Point {
  return { x: event.offsetX, y: event.offsetY }
}
