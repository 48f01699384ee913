/** Draws a cloud on a canvas, at most once per frame, independent of React. */
import type { Cloud } from './cloud'
import { disc, Raster, type Stamp } from './raster'
import { fitTo, type Point, type Size, toScreen, type View } from './view'

export interface Colours {
  /** The colour of each category by its custom property. */
  readonly categories: Readonly<Record<string, string>>
  readonly background: string
  readonly grid: string
  readonly ink: string
  readonly accent: string
  readonly font: string
}

/** The highlighted points by index; -1 means none. */
export interface Highlights {
  readonly hits: readonly number[]
  readonly query: Point | null
  readonly hovered: number
  readonly selected: number
}

export const NO_HIGHLIGHTS: Highlights = { hits: [], query: null, hovered: -1, selected: -1 }
const OPACITY = 0.85
const DIMMED_OPACITY = 0.4
const GRID = 0.25

export class Painter {
  cloud: Cloud | null = null
  colours: Colours | null = null
  hidden: ReadonlySet<string> = new Set()
  highlights: Highlights = NO_HIGHLIGHTS
  view: View
  size: Size
  /** Number of frames drawn. */
  frames = 0
  /** Duration of the last frame in milliseconds. */
  took = 0
  readonly #canvas: HTMLCanvasElement
  readonly #context: CanvasRenderingContext2D
  #ratio = 1
  #frame = 0
  #raster: Raster | null = null
  #stamp: Stamp = disc(1, 1)
  #stampKey = ''
  readonly #pixelOfColour = new Map<string, number>()

  constructor(canvas: HTMLCanvasElement, size: Size) {
    // Each frame is copied to the canvas, so a canvas in main memory is faster than one on the GPU.
    const context = canvas.getContext('2d', { willReadFrequently: true, alpha: false })
    if (!context) throw new Error('This browser does not support the 2D canvas.')
    this.#canvas = canvas
    this.#context = context
    this.size = size
    this.view = fitTo(size)
  }

  resize(size: Size, ratio: number): void {
    this.size = size
    this.#ratio = ratio
    this.#canvas.width = Math.round(size.width * ratio)
    this.#canvas.height = Math.round(size.height * ratio)
    const { width, height } = this.#canvas
    this.#raster = width && height ? new Raster(this.#context.createImageData(width, height)) : null
    this.requestDraw()
  }

  /** Draw in the next animation frame. */
  requestDraw(): void {
    if (this.#frame) return
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0
      this.#draw()
    })
  }

  stop(): void {
    cancelAnimationFrame(this.#frame)
    this.#frame = 0
  }

  /** Radius of a point in pixels. It shrinks with the number of points and grows with the zoom. */
  get radius(): number {
    const zoom = Math.max(this.view.scale / fitTo(this.size).scale, 1)
    const base = (this.cloud?.count ?? 0) > 3000 ? 2.2 : 3.6
    return Math.min(base * zoom ** 0.35, 9)
  }

  #draw(): void {
    const { cloud, colours } = this
    if (!colours) return
    const start = performance.now()
    this.#context.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0)
    this.#drawRaster(cloud, colours)
    if (cloud) this.#drawHighlights(cloud, colours)
    this.frames += 1
    this.took = performance.now() - start
  }

  /** Draw the grid and the points into the raster and copy it to the canvas. */
  #drawRaster(cloud: Cloud | null, colours: Colours): void {
    const raster = this.#raster
    if (!raster) return
    raster.clear(this.#pixelOf(colours.background))
    this.#drawGrid(raster, this.#pixelOf(colours.grid))
    if (cloud) this.#drawPoints(raster, cloud, colours)
    this.#context.putImageData(raster.image, 0, 0)
  }

  #drawGrid(raster: Raster, colour: number): void {
    const width = Math.max(1, Math.round(this.#ratio))
    const pixel = (position: Point) => {
      const { x, y } = toScreen(this.view, this.size, position)
      return { x: Math.round(x * this.#ratio), y: Math.round(y * this.#ratio) }
    }
    const from = pixel({ x: -1, y: 1 })
    const to = pixel({ x: 1, y: -1 })
    for (let line = -1; line <= 1.0001; line += GRID) {
      const { x, y } = pixel({ x: line, y: line })
      raster.fill(x, from.y, width, to.y - from.y + width, colour)
      raster.fill(from.x, y, to.x - from.x + width, width, colour)
    }
  }

  #drawPoints(raster: Raster, cloud: Cloud, colours: Colours): void {
    const { x, y, category, categories } = cloud
    const stamp = this.#currentStamp()
    const scale = this.view.scale * this.#ratio
    const wide = scale * this.view.stretch
    const left = (this.size.width / 2) * this.#ratio - this.view.x * wide - stamp.size / 2
    const top = (this.size.height / 2) * this.#ratio + this.view.y * scale - stamp.size / 2
    const pixels = categories.map((_, index) => this.#pixelOf(colourOf(cloud, index, colours)))
    const visible = categories.map(({ name }) => !this.hidden.has(name))
    for (let index = 0; index < x.length; index++) {
      const group = category[index] as number
      const px = Math.round(left + (x[index] as number) * wide)
      const py = Math.round(top - (y[index] as number) * scale)
      if (!visible[group] || px < -stamp.size || py < -stamp.size) continue
      if (px < raster.width && py < raster.height) raster.stamp(stamp, px, py, pixels[group] ?? 0)
    }
  }

  /** Return the image of a point for the current radius and opacity. */
  #currentStamp(): Stamp {
    const radius = Math.round(this.radius * this.#ratio * 4) / 4
    const opacity = this.highlights.hits.length > 0 ? DIMMED_OPACITY : OPACITY
    const key = `${radius} ${opacity}`
    if (key !== this.#stampKey) {
      this.#stampKey = key
      this.#stamp = disc(radius, opacity)
    }
    return this.#stamp
  }

  /** Return a CSS colour as a pixel. The canvas parses every CSS notation. */
  #pixelOf(colour: string): number {
    const cached = this.#pixelOfColour.get(colour)
    if (cached !== undefined) return cached
    const context = this.#context
    context.save()
    context.resetTransform()
    context.fillStyle = colour
    context.fillRect(0, 0, 1, 1)
    context.restore()
    const pixel = new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0] ?? 0
    this.#pixelOfColour.set(colour, pixel)
    return pixel
  }

  #drawHighlights(cloud: Cloud, colours: Colours): void {
    const { hits, query, hovered, selected } = this.highlights
    const context = this.#context
    if (query) this.#drawRays(cloud, query, hits, colours)
    const radius = this.radius + 2
    for (let rank = hits.length - 1; rank >= 0; rank--) {
      const index = hits[rank] as number
      this.#ring(cloud, index, radius, colours, colours.ink)
    }
    if (selected >= 0) this.#ring(cloud, selected, radius + 2, colours, colours.accent, 2.5)
    if (hovered >= 0) this.#ring(cloud, hovered, radius + 1, colours, colours.ink, 2)
    this.#drawRanks(cloud, hits, radius, colours)
    if (query) this.#drawQuery(query, colours)
    context.lineWidth = 1
  }

  #drawRays(cloud: Cloud, query: Point, hits: readonly number[], colours: Colours): void {
    const context = this.#context
    const from = toScreen(this.view, this.size, query)
    context.strokeStyle = colours.accent
    context.globalAlpha = 0.35
    context.lineWidth = 1
    context.beginPath()
    for (const index of hits) {
      const to = toScreen(this.view, this.size, cloud.position(index))
      context.moveTo(from.x, from.y)
      context.lineTo(to.x, to.y)
    }
    context.stroke()
    context.globalAlpha = 1
  }

  #ring(
    cloud: Cloud,
    index: number,
    radius: number,
    colours: Colours,
    stroke: string,
    width = 1.5,
  ): void {
    const context = this.#context
    const position = toScreen(this.view, this.size, cloud.position(index))
    context.beginPath()
    context.arc(position.x, position.y, radius, 0, 2 * Math.PI)
    context.fillStyle = colourOf(cloud, cloud.category[index] ?? 0, colours)
    context.fill()
    context.strokeStyle = stroke
    context.lineWidth = width
    context.stroke()
  }

  #drawRanks(cloud: Cloud, hits: readonly number[], radius: number, colours: Colours): void {
    const context = this.#context
    context.font = `600 11px ${colours.font}`
    context.textBaseline = 'middle'
    context.lineJoin = 'round'
    context.lineWidth = 3
    context.strokeStyle = colours.background
    context.fillStyle = colours.ink
    for (let rank = hits.length - 1; rank >= 0; rank--) {
      const position = toScreen(this.view, this.size, cloud.position(hits[rank] as number))
      const label = `${rank + 1}`
      context.strokeText(label, position.x + radius + 4, position.y + 0.5)
      context.fillText(label, position.x + radius + 4, position.y + 0.5)
    }
  }

  #drawQuery(query: Point, colours: Colours): void {
    const context = this.#context
    const { x, y } = toScreen(this.view, this.size, query)
    for (const [stroke, width] of [
      [colours.background, 6],
      [colours.accent, 2.5],
    ] as const) {
      context.strokeStyle = stroke
      context.lineWidth = width
      context.beginPath()
      context.arc(x, y, 7, 0, 2 * Math.PI)
      for (const [dx, dy] of [
        [1, 0],
        [-1, 0],
        [0, 1],
        [0, -1],
      ] as const) {
        context.moveTo(x + 4 * dx, y + 4 * dy)
        context.lineTo(x + 12 * dx, y + 12 * dy)
      }
      context.stroke()
    }
  }
}

function colourOf(cloud: Cloud, category: number, colours: Colours): string {
  return colours.categories[cloud.categories[category]?.colour ?? ''] ?? colours.ink
}
