/** Where on the screen a place of the map lies. Pure functions; lengths are CSS pixels. */

export interface Size {
  readonly width: number
  readonly height: number
}

/**
 * The middle of the screen in the map's coordinates, and pixels to one unit of y. The two axes have
 * no common measure, so that x is stretched to fill the screen: `stretch` times the pixels of y.
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

/** The whole map: the server scales both coordinates into [-1, 1]. */
export const WHOLE: Bounds = { minX: -1, minY: -1, maxX: 1, maxY: 1 }
export const MARGIN = 36
/** How much closer than the whole map one may come. */
export const CLOSEST = 80
const SMALLEST_SPAN = 0.05
const MOST_STRETCHED = 1.8

/** The view that shows the bounds as large as they fit. */
export function fitTo(size: Size, bounds: Bounds = WHOLE, margin = MARGIN): View {
  const spanX = Math.max(bounds.maxX - bounds.minX, SMALLEST_SPAN)
  const spanY = Math.max(bounds.maxY - bounds.minY, SMALLEST_SPAN)
  const width = Math.max(size.width - 2 * margin, 1)
  const height = Math.max(size.height - 2 * margin, 1)
  const stretch = Math.min(Math.max(width / height, 1 / MOST_STRETCHED), MOST_STRETCHED)
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

export function toScreen(view: View, size: Size, place: Point): Point {
  return {
    x: size.width / 2 + (place.x - view.x) * view.scale * view.stretch,
    // The map's y grows upward, the screen's downward.
    y: size.height / 2 - (place.y - view.y) * view.scale,
  }
}

export function toMap(view: View, size: Size, pixel: Point): Point {
  return {
    x: view.x + (pixel.x - size.width / 2) / (view.scale * view.stretch),
    y: view.y - (pixel.y - size.height / 2) / view.scale,
  }
}

/** Move what is shown by so many pixels. */
export function panned(view: View, dx: number, dy: number): View {
  return { ...view, x: view.x - dx / (view.scale * view.stretch), y: view.y + dy / view.scale }
}

/** Come closer by a factor; the place under the pixel stays where it is. */
export function zoomed(view: View, size: Size, factor: number, pixel: Point): View {
  const whole = fitTo(size).scale
  const scale = Math.min(Math.max(view.scale * factor, whole / 2), whole * CLOSEST)
  const still = toMap(view, size, pixel)
  return {
    ...view,
    scale,
    x: still.x - (pixel.x - size.width / 2) / (scale * view.stretch),
    y: still.y + (pixel.y - size.height / 2) / scale,
  }
}

/** The view with its middle on the map, so that the map cannot be lost from sight. */
export function held(view: View): View {
  const within = (value: number) => Math.min(Math.max(value, -1), 1)
  return { ...view, x: within(view.x), y: within(view.y) }
}

export function boundsShown(view: View, size: Size): Bounds {
  const halfX = size.width / 2 / (view.scale * view.stretch)
  const halfY = size.height / 2 / view.scale
  return {
    minX: view.x - halfX,
    minY: view.y - halfY,
    maxX: view.x + halfX,
    maxY: view.y + halfY,
  }
}
