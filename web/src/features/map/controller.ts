/** A map on a canvas that is panned, zoomed and pointed at. React is told only where it has settled. */
import { type Lit, Painter } from './painter'
import {
  type Bounds,
  boundsOf,
  boundsShown,
  fitTo,
  held,
  MARGIN,
  type Point,
  panned,
  toMap,
  toScreen,
  type View,
  zoomed,
} from './view'

export interface Told {
  /** A point was clicked; -1: none. */
  onPick: (at: number) => void
  /** The view has begun to move: what is listed of it is out of date until it rests. */
  onMoving: () => void
  /** The view has come to rest. */
  onSettled: (view: View, bounds: Bounds) => void
}

const SETTLED_MS = 180
const REACH = 14
const CLICK_MOVES = 4
const KEY_ZOOM = 1.5
const KEY_PAN = 0.18

export class MapController {
  readonly painter: Painter
  told: Told = { onPick: () => {}, onMoving: () => {}, onSettled: () => {} }
  readonly #canvas: HTMLCanvasElement
  readonly #label: HTMLElement
  readonly #pointers = new Map<number, Point>()
  readonly #observer: ResizeObserver
  readonly #listening = new AbortController()
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
    this.#listening.abort()
    this.#observer.disconnect()
    this.painter.stop()
  }

  // --- what is shown ---

  show(change: Partial<Pick<Painter, 'cloud' | 'colours' | 'hidden'>>): void {
    Object.assign(this.painter, change)
    this.#hover(-1)
    this.painter.ask()
    this.#settle()
  }

  light(lit: Pick<Lit, 'hits' | 'query' | 'selected'>): void {
    this.painter.lit = { ...this.painter.lit, ...lit }
    this.painter.ask()
  }

  /** Times closer than the whole map. */
  get zoom(): number {
    return this.painter.view.scale / fitTo(this.painter.size).scale
  }

  /** Whether the whole map is shown, and stays so when the window changes. */
  get whole(): boolean {
    return this.#whole
  }

  get middle(): Point {
    return this.painter.view
  }

  // --- moving ---

  fit(): void {
    this.#whole = true
    this.#become(fitTo(this.painter.size))
  }

  /** Show these places as large as they fit, with room for their labels. */
  fitPoints(points: readonly Point[]): void {
    if (points.length > 0) this.#go(fitTo(this.painter.size, boundsOf(points), 2 * MARGIN))
  }

  zoomBy(direction: 1 | -1): void {
    const { view, size } = this.painter
    const middle = { x: size.width / 2, y: size.height / 2 }
    this.#go(zoomed(view, size, KEY_ZOOM ** direction, middle))
  }

  /** Move the view by a part of what is shown: (1, 0) is to the right. */
  panBy(dx: number, dy: number): void {
    const { view, size } = this.painter
    const step = KEY_PAN * Math.min(size.width, size.height)
    this.#go(panned(view, -dx * step, -dy * step))
  }

  /** Go to a place at a zoom, as an address says. */
  goTo(place: Point, zoom: number): void {
    const whole = fitTo(this.painter.size)
    this.#go({ ...whole, ...place, scale: whole.scale * zoom })
  }

  /** Bring a place into view, if it is not. */
  reveal(place: Point): void {
    const { view, size } = this.painter
    const at = toScreen(view, size, place)
    const inside = at.x > MARGIN && at.y > MARGIN && at.x < size.width - MARGIN
    if (!inside || at.y > size.height - MARGIN) this.#go({ ...view, x: place.x, y: place.y })
  }

  #go(view: View): void {
    this.#whole = false
    this.#become(held(view))
  }

  #become(view: View): void {
    this.painter.view = view
    this.painter.ask()
    this.#hover(-1)
    this.#settle()
  }

  #settle(): void {
    clearTimeout(this.#timer)
    if (!this.#moving) this.told.onMoving()
    this.#moving = true
    if (this.#pointers.size > 0) return // it is told when it is let go
    this.#timer = setTimeout(() => {
      const { view, size } = this.painter
      this.#moving = false
      this.told.onSettled(view, boundsShown(view, size))
    }, SETTLED_MS)
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
    const { signal } = this.#listening
    const on = <K extends keyof HTMLElementEventMap>(
      type: K,
      heard: (event: HTMLElementEventMap[K]) => void,
    ) => this.#canvas.addEventListener(type, heard, { signal, passive: false })
    on('pointerdown', (event) => this.#down(event))
    on('pointermove', (event) => this.#move(event))
    on('pointerup', (event) => this.#up(event))
    on('pointercancel', (event) => this.#let(event))
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
    else if (this.#moved > CLICK_MOVES) {
      this.#go(panned(this.painter.view, now.x - before.x, now.y - before.y))
    }
  }

  #pinch(id: number, before: Point, now: Point): void {
    const other = [...this.#pointers].find(([each]) => each !== id)?.[1]
    if (!other) return
    const spread = (pixel: Point) => Math.hypot(pixel.x - other.x, pixel.y - other.y)
    const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 }
    const moved = panned(this.painter.view, (now.x - before.x) / 2, (now.y - before.y) / 2)
    const factor = spread(now) / Math.max(spread(before), 1)
    this.#go(zoomed(moved, this.painter.size, factor, middle))
  }

  #up(event: PointerEvent): void {
    const wasDown = this.#let(event)
    if (wasDown && this.#moved <= CLICK_MOVES) this.told.onPick(this.#pointAt(pixelOf(event)))
  }

  #let(event: PointerEvent): boolean {
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
    return cloud.nearest(toMap(view, size, pixel), REACH / view.scale, hidden)
  }

  /** The label beside a point is moved by hand: nothing else on the page changes with it. */
  #hover(at: number): void {
    const { cloud, view, size, lit } = this.painter
    this.#label.hidden = at < 0
    this.#canvas.dataset.hovered = at < 0 ? '' : (cloud?.key(at) ?? '')
    if (lit.hovered !== at) {
      this.painter.lit = { ...lit, hovered: at }
      this.painter.ask()
    }
    if (at < 0 || !cloud) return
    const [title, category] = this.#label.children
    if (title) title.textContent = cloud.title(at)
    if (category) category.textContent = cloud.categoryOf(at).replaceAll('_', ' ')
    const place = toScreen(view, size, cloud.place(at))
    const left = Math.min(place.x + 14, size.width - this.#label.offsetWidth - 8)
    const below = place.y + 16 + this.#label.offsetHeight < size.height
    const top = below ? place.y + 14 : place.y - this.#label.offsetHeight - 12
    this.#label.style.transform = `translate(${Math.max(left, 8)}px, ${top}px)`
  }
}

function pixelOf(event: MouseEvent): Point {
  return { x: event.offsetX, y: event.offsetY }
}
