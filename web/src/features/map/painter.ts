/** Draws a cloud on a canvas, at most once a frame. Knows nothing of React. */
import type { Cloud } from './cloud'
import { disc, Raster, type Stamp } from './raster'
import { fitTo, type Point, type Size, toScreen, type View } from './view'

export interface Colours {
  /** What each custom property of a category's colour is in this theme. */
  readonly categories: Readonly<Record<string, string>>
  readonly background: string
  readonly grid: string
  readonly ink: string
  readonly accent: string
  readonly font: string
}

/** What is lit up, by the numbers of points. */
export interface Lit {
  readonly hits: readonly number[]
  readonly query: Point | null
  readonly hovered: number
  readonly selected: number
}

export const NOTHING_LIT: Lit = { hits: [], query: null, hovered: -1, selected: -1 }
const DIMMED = 0.4
const GRID = 0.25

export class Painter {
  cloud: Cloud | null = null
  colours: Colours | null = null
  hidden: ReadonlySet<string> = new Set()
  lit: Lit = NOTHING_LIT
  view: View
  size: Size
  /** How many frames were drawn, and how long the last one took in milliseconds. */
  frames = 0
  took = 0
  readonly #canvas: HTMLCanvasElement
  readonly #context: CanvasRenderingContext2D
  #ratio = 1
  #asked = 0
  #raster: Raster | null = null
  #point: Stamp = disc(1, 1)
  #stampFor = ''
  readonly #pixels = new Map<string, number>()

  constructor(canvas: HTMLCanvasElement, size: Size) {
    // Kept in memory, where the points are blended: each frame is copied to it as a whole.
    const context = canvas.getContext('2d', { willReadFrequently: true, alpha: false })
    if (!context) throw new Error('This browser draws no canvas.')
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
    this.ask()
  }

  /** Draw before the next frame is shown. */
  ask(): void {
    if (this.#asked) return
    this.#asked = requestAnimationFrame(() => {
      this.#asked = 0
      this.#draw()
    })
  }

  stop(): void {
    cancelAnimationFrame(this.#asked)
    this.#asked = 0
  }

  /** Radius of a point in pixels: smaller where there are many, larger where one comes close. */
  get radius(): number {
    const closer = Math.max(this.view.scale / fitTo(this.size).scale, 1)
    const crowd = (this.cloud?.count ?? 0) > 3000 ? 2.2 : 3.6
    return Math.min(crowd * closer ** 0.35, 9)
  }

  #draw(): void {
    const { cloud, colours } = this
    if (!colours) return
    const began = performance.now()
    this.#context.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0)
    this.#drawField(cloud, colours)
    if (cloud) this.#drawLit(cloud, colours)
    this.frames += 1
    this.took = performance.now() - began
  }

  /** The grid and the points: by hand, and copied to the canvas at once. */
  #drawField(cloud: Cloud | null, colours: Colours): void {
    const raster = this.#raster
    if (!raster) return
    raster.clear(this.#packed(colours.background))
    this.#drawGrid(raster, this.#packed(colours.grid))
    if (cloud) this.#drawPoints(raster, cloud, colours)
    this.#context.putImageData(raster.image, 0, 0)
  }

  #drawGrid(raster: Raster, colour: number): void {
    const thick = Math.max(1, Math.round(this.#ratio))
    const pixel = (place: Point) => {
      const { x, y } = toScreen(this.view, this.size, place)
      return { x: Math.round(x * this.#ratio), y: Math.round(y * this.#ratio) }
    }
    const from = pixel({ x: -1, y: 1 })
    const to = pixel({ x: 1, y: -1 })
    for (let at = -1; at <= 1.0001; at += GRID) {
      const { x, y } = pixel({ x: at, y: at })
      raster.fill(x, from.y, thick, to.y - from.y + thick, colour)
      raster.fill(from.x, y, to.x - from.x + thick, thick, colour)
    }
  }

  #drawPoints(raster: Raster, cloud: Cloud, colours: Colours): void {
    const { x, y, category, categories } = cloud
    const stamp = this.#stamp()
    const scale = this.view.scale * this.#ratio
    const wide = scale * this.view.stretch
    const left = (this.size.width / 2) * this.#ratio - this.view.x * wide - stamp.size / 2
    const top = (this.size.height / 2) * this.#ratio + this.view.y * scale - stamp.size / 2
    const tones = categories.map((_, at) => this.#packed(tone(cloud, at, colours)))
    const shown = categories.map((each) => !this.hidden.has(each.name))
    for (let at = 0; at < x.length; at++) {
      const group = category[at] as number
      const px = Math.round(left + (x[at] as number) * wide)
      const py = Math.round(top - (y[at] as number) * scale)
      if (!shown[group] || px < -stamp.size || py < -stamp.size) continue
      if (px < raster.width && py < raster.height) raster.stamp(stamp, px, py, tones[group] ?? 0)
    }
  }

  /** A point as it looks now. */
  #stamp(): Stamp {
    const radius = Math.round(this.radius * this.#ratio * 4) / 4
    const opacity = this.lit.hits.length > 0 ? DIMMED : 0.85
    const name = `${radius} ${opacity}`
    if (name !== this.#stampFor) {
      this.#stampFor = name
      this.#point = disc(radius, opacity)
    }
    return this.#point
  }

  /** A colour of the style sheet as a pixel; the canvas reads every way to write one. */
  #packed(colour: string): number {
    const known = this.#pixels.get(colour)
    if (known !== undefined) return known
    const context = this.#context
    context.save()
    context.resetTransform()
    context.fillStyle = colour
    context.fillRect(0, 0, 1, 1)
    context.restore()
    const pixel = new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0] ?? 0
    this.#pixels.set(colour, pixel)
    return pixel
  }

  #drawLit(cloud: Cloud, colours: Colours): void {
    const { hits, query, hovered, selected } = this.lit
    const context = this.#context
    if (query) this.#drawRays(cloud, query, hits, colours)
    const radius = this.radius + 2
    for (let rank = hits.length - 1; rank >= 0; rank--) {
      const at = hits[rank] as number
      this.#ring(cloud, at, radius, colours, colours.ink)
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
    for (const at of hits) {
      const to = toScreen(this.view, this.size, cloud.place(at))
      context.moveTo(from.x, from.y)
      context.lineTo(to.x, to.y)
    }
    context.stroke()
    context.globalAlpha = 1
  }

  #ring(
    cloud: Cloud,
    at: number,
    radius: number,
    colours: Colours,
    stroke: string,
    width = 1.5,
  ): void {
    const context = this.#context
    const place = toScreen(this.view, this.size, cloud.place(at))
    context.beginPath()
    context.arc(place.x, place.y, radius, 0, 2 * Math.PI)
    context.fillStyle = tone(cloud, cloud.category[at] ?? 0, colours)
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
      const place = toScreen(this.view, this.size, cloud.place(hits[rank] as number))
      const label = `${rank + 1}`
      context.strokeText(label, place.x + radius + 4, place.y + 0.5)
      context.fillText(label, place.x + radius + 4, place.y + 0.5)
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

function tone(cloud: Cloud, category: number, colours: Colours): string {
  return colours.categories[cloud.categories[category]?.colour ?? ''] ?? colours.ink
}
