/** The points of a map as typed arrays, with an index that finds the nearest. */
import KDBush from 'kdbush'
import { categoryVariable, inOrder } from '@/shared/theme/categories'
import type { Bounds, Point } from './view'

export interface Columns {
  readonly keys: readonly string[]
  readonly x: readonly number[]
  readonly y: readonly number[]
  readonly titles: readonly string[]
  readonly categories: readonly (string | null)[]
}

export interface Category {
  readonly name: string
  readonly count: number
  /** The custom property of its colour, the same as in every other view. */
  readonly colour: string
}

export const UNSORTED = 'no category'

export class Cloud {
  readonly x: Float32Array
  readonly y: Float32Array
  /** Of each point, the index in `categories`. */
  readonly category: Uint16Array
  /** In the order of their names; rows without one come last. */
  readonly categories: readonly Category[]
  readonly #index: KDBush
  readonly #at: Map<string, number>

  readonly columns: Columns

  constructor(columns: Columns) {
    this.columns = columns
    this.x = Float32Array.from(columns.x)
    this.y = Float32Array.from(columns.y)
    const named = columns.categories.map((name) => name ?? UNSORTED)
    this.categories = counted(named)
    const numbers = new Map(this.categories.map((category, at) => [category.name, at]))
    this.category = Uint16Array.from(named, (name) => numbers.get(name) ?? 0)
    this.#index = new KDBush(columns.keys.length, 64, Float32Array)
    for (let at = 0; at < this.x.length; at++) this.#index.add(this.x[at] ?? 0, this.y[at] ?? 0)
    this.#index.finish()
    this.#at = new Map(columns.keys.map((key, at) => [key, at]))
  }

  get count(): number {
    return this.x.length
  }

  /** The number of the point with this key, or -1. */
  find(key: string | null): number {
    return key === null ? -1 : (this.#at.get(key) ?? -1)
  }

  place(at: number): Point {
    return { x: this.x[at] ?? 0, y: this.y[at] ?? 0 }
  }

  key(at: number): string {
    return this.columns.keys[at] ?? ''
  }

  title(at: number): string {
    return this.columns.titles[at] ?? ''
  }

  categoryOf(at: number): string {
    return this.categories[this.category[at] ?? 0]?.name ?? UNSORTED
  }

  /** The custom property of a point's colour. */
  colourOf(at: number): string {
    return this.categories[this.category[at] ?? 0]?.colour ?? '--ink-2'
  }

  /** The number of the nearest shown point within a radius, or -1. */
  nearest(place: Point, radius: number, hidden: ReadonlySet<string>): number {
    let best = -1
    let least = Number.POSITIVE_INFINITY
    for (const at of this.#index.within(place.x, place.y, radius)) {
      const distance = this.#squared(at, place)
      if (distance < least && !hidden.has(this.categoryOf(at))) {
        best = at
        least = distance
      }
    }
    return best
  }

  /** The shown points within bounds, those next to their middle first. */
  within(bounds: Bounds, hidden: ReadonlySet<string>): number[] {
    const middle = { x: (bounds.minX + bounds.maxX) / 2, y: (bounds.minY + bounds.maxY) / 2 }
    const found = this.#index.range(bounds.minX, bounds.minY, bounds.maxX, bounds.maxY)
    return found
      .filter((at) => !hidden.has(this.categoryOf(at)))
      .sort((a, b) => this.#squared(a, middle) - this.#squared(b, middle))
  }

  /** The next shown point to the right (or left); from none, the one nearest the place. */
  neighbour(from: number, step: 1 | -1, start: Point, hidden: ReadonlySet<string>): number {
    if (from < 0) return this.nearest(start, 4, hidden)
    const shown = this.#byX().filter((at) => at === from || !hidden.has(this.categoryOf(at)))
    return shown[shown.indexOf(from) + step] ?? from
  }

  #order: number[] | undefined

  #byX(): number[] {
    this.#order ??= Array.from(this.x.keys()).sort(
      (a, b) => (this.x[a] ?? 0) - (this.x[b] ?? 0) || a - b,
    )
    return this.#order
  }

  #squared(at: number, place: Point): number {
    return ((this.x[at] ?? 0) - place.x) ** 2 + ((this.y[at] ?? 0) - place.y) ** 2
  }
}

function counted(named: readonly string[]): Category[] {
  const counts = new Map<string, number>()
  for (const name of named) counts.set(name, (counts.get(name) ?? 0) + 1)
  const known = inOrder(counts.keys()).filter((name) => name !== UNSORTED)
  const all = counts.has(UNSORTED) ? [...known, UNSORTED] : known
  return all.map((name) => ({
    name,
    count: counts.get(name) ?? 0,
    colour: categoryVariable(name, known),
  }))
}
