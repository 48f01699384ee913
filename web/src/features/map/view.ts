/** Converts between map coordinates and screen pixels. Lengths are CSS pixels. */

export interface Size {
  readonly width: number
  readonly height: number
}

/**
 * The visible part of the map: its centre in map coordinates and the pixels per unit of y. A unit
 * of x has `stretch` times as many pixels, so that the map fills the screen. The axes of a
 * projection have no common unit.
 */
export interface View {
  readonly x: number
  readonly y: number
  readonly scale: number
  readonly stretch: number
}

export interface Point {
  readonly x: number
  readonly y: number
}

export interface Bounds {
  readonly minX: number
  readonly minY: number
  readonly maxX: number
  readonly maxY: number
}

/** The bounds of the map: the server scales both coordinates to [-1, 1]. */
export const WHOLE: Bounds = { minX: -1, minY: -1, maxX: 1, maxY: 1 }
export const MARGIN = 36
/** Maximum zoom relative to the whole map. */
export const MAX_ZOOM = 80
const MIN_SPAN = 0.05
const MAX_STRETCH = 1.8

/** Return the view with the largest scale that shows the bounds. */
export function fitTo(size: Size, bounds: Bounds = WHOLE, margin = MARGIN): View {
  const spanX = Math.max(bounds.maxX - bounds.minX, MIN_SPAN)
  const spanY = Math.max(bounds.maxY - bounds.minY, MIN_SPAN)
  const width = Math.max(size.width - 2 * margin, 1)
  const height = Math.max(size.height - 2 * margin, 1)
  const stretch = Math.min(Math.max(width / height, 1 / MAX_STRETCH), MAX_STRETCH)
  return {
    x: (bounds.minX + bounds.maxX) / 2,
    y: (bounds.minY + bounds.maxY) / 2,
    scale: Math.min(width / stretch / spanX, height / spanY),
    stretch,
  }
}

export function boundsOf(points: readonly Point[]): Bounds {
  const xs = points.map((point) => point.x)
  const ys = points.map((point) => point.y)
  return {
    minX: Math.min(...xs),
    minY: Math.min(...ys),
    maxX: Math.max(...xs),
    maxY: Math.max(...ys),
  }
}

export function toScreen(view: View, size: Size, position: Point): Point {
  return {
    x: size.width / 2 + (position.x - view.x) * view.scale * view.stretch,
    // y points up on the map and down on the screen.
    y: size.height / 2 - (position.y - view.y) * view.scale,
  }
}

export function toMap(view: View, size: Size, pixel: Point): Point {
  return {
    x: view.x + (pixel.x - size.width / 2) / (view.scale * view.stretch),
    y: view.y - (pixel.y - size.height / 2) / view.scale,
  }
}

/** Move the content of the view by a number of pixels. */
export function panned(view: View, dx: number, dy: number): View {
  return { ...view, x: view.x - dx / (view.scale * view.stretch), y: view.y + dy / view.scale }
}

/** Zoom by a factor around a pixel. */
export function zoomed(view: View, size: Size, factor: number, pixel: Point): View {
  const whole = fitTo(size).scale
  const scale = Math.min(Math.max(view.scale * factor, whole / 2), whole * MAX_ZOOM)
  const fixed = toMap(view, size, pixel)
  return {
    ...view,
    scale,
    x: fixed.x - (pixel.x - size.width / 2) / (scale * view.stretch),
    y: fixed.y + (pixel.y - size.height / 2) / scale,
  }
}

/** Move the centre of the view onto the map, so that the map cannot leave the screen. */
export function clamped(view: View): View {
  const clamp = (value: number) => Math.min(Math.max(value, -1), 1)
  return { ...view, x: clamp(view.x), y: clamp(view.y) }
}

export function visibleBounds(view: View, size: Size): Bounds {
  const halfX = size.width / 2 / (view.scale * view.stretch)
  const halfY = size.height / 2 / view.scale
  return {
    minX: view.x - halfX,
    minY: view.y - halfY,
    maxX: view.x + halfX,
    maxY: view.y + halfY,
  }
}
