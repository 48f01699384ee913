/** Draws a cloud on a canvas, at most once a frame. Knows nothing of React. */
import type { Cloud } from './cloud'
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
  #sprites: HTMLCanvasElement[] = []
  #spritesFor = ''

  constructor(canvas: HTMLCanvasElement, size: Size) {
    const context = canvas.getContext('2d')
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
    this.#context.fillStyle = colours.background
    this.#context.fillRect(0, 0, this.size.width, this.size.height)
    this.#drawGrid(colours)
    if (cloud) {
      this.#drawPoints(cloud, colours)
      this.#drawLit(cloud, colours)
    }
    this.frames += 1
    this.took = performance.now() - began
  }

  #drawGrid(colours: Colours): void {
    const context = this.#context
    context.strokeStyle = colours.grid
    context.lineWidth = 1
    context.beginPath()
    for (let at = -1; at <= 1.0001; at += GRID) {
      const low = toScreen(this.view, this.size, { x: at, y: at })
      const from = toScreen(this.view, this.size, { x: -1, y: 1 })
      const to = toScreen(this.view, this.size, { x: 1, y: -1 })
      context.moveTo(Math.round(low.x) + 0.5, from.y)
      context.lineTo(Math.round(low.x) + 0.5, to.y)
      context.moveTo(from.x, Math.round(low.y) + 0.5)
      context.lineTo(to.x, Math.round(low.y) + 0.5)
    }
    context.stroke()
  }

  #drawPoints(cloud: Cloud, colours: Colours): void {
    const sprites = this.#spritesOf(cloud, colours)
    const { x, y, category } = cloud
    const ratio = this.#ratio
    const scale = this.view.scale * ratio
    const wide = scale * this.view.stretch
    const half = (sprites[0]?.width ?? 0) / 2
    const left = (this.size.width / 2) * ratio - this.view.x * wide - half
    const top = (this.size.height / 2) * ratio + this.view.y * scale - half
    const right = this.#canvas.width
    const bottom = this.#canvas.height
    const shown = cloud.categories.map((each) => !this.hidden.has(each.name))
    const context = this.#context
    context.setTransform(1, 0, 0, 1, 0, 0)
    context.globalAlpha = this.lit.hits.length > 0 ? DIMMED : 0.85
    for (let at = 0; at < x.length; at++) {
      const group = category[at] as number
      // Whole device pixels: a picture that is not moved by halves is drawn several times as fast.
      const px = Math.round(left + (x[at] as number) * wide)
      const py = Math.round(top - (y[at] as number) * scale)
      if (!shown[group] || px < -2 * half || py < -2 * half || px > right || py > bottom) continue
      context.drawImage(sprites[group] as HTMLCanvasElement, px, py)
    }
    context.globalAlpha = 1
    context.setTransform(ratio, 0, 0, ratio, 0, 0)
  }

  /** One small picture of a point for each category. */
  #spritesOf(cloud: Cloud, colours: Colours): HTMLCanvasElement[] {
    const radius = Math.round(this.radius * this.#ratio * 4) / 4
    const tones = cloud.categories.map((_, category) => tone(cloud, category, colours))
    const name = `${radius} ${tones.join()}`
    if (name !== this.#spritesFor) {
      this.#spritesFor = name
      this.#sprites = tones.map((colour) => dot(colour, radius))
    }
    return this.#sprites
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

function dot(colour: string, radius: number): HTMLCanvasElement {
  const made = document.createElement('canvas')
  made.width = made.height = 2 * Math.ceil(radius + 1)
  const context = made.getContext('2d')
  if (context) {
    context.fillStyle = colour
    context.beginPath()
    context.arc(made.width / 2, made.height / 2, radius, 0, 2 * Math.PI)
    context.fill()
  }
  return made
}
