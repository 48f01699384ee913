/** The points of a map as typed arrays with a spatial index. */
import KDBush from 'kdbush'
import { categoryVariable, sortedCategories } from '@/shared/theme/categories'
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
  /** Custom property of its colour, the same in every view. */
  readonly colour: string
}

export const UNCATEGORIZED = 'no category'

export class Cloud {
  readonly x: Float32Array
  readonly y: Float32Array
  /** The index in `categories` of each point. */
  readonly category: Uint16Array
  /** Sorted by name. Rows without a category come last. */
  readonly categories: readonly Category[]
  readonly #tree: KDBush
  readonly #indexByKey: Map<string, number>

  readonly columns: Columns

  constructor(columns: Columns) {
    this.columns = columns
    this.x = Float32Array.from(columns.x)
    this.y = Float32Array.from(columns.y)
    const names = columns.categories.map((name) => name ?? UNCATEGORIZED)
    this.categories = categoriesOf(names)
    const indexes = new Map(this.categories.map((category, index) => [category.name, index]))
    this.category = Uint16Array.from(names, (name) => indexes.get(name) ?? 0)
    this.#tree = new KDBush(columns.keys.length, 64, Float32Array)
    for (let index = 0; index < this.x.length; index++) {
      this.#tree.add(this.x[index] ?? 0, this.y[index] ?? 0)
    }
    this.#tree.finish()
    this.#indexByKey = new Map(columns.keys.map((key, index) => [key, index]))
  }

  get count(): number {
    return this.x.length
  }

  /** Return the index of the point with this key, or -1. */
  find(key: string | null): number {
    return key === null ? -1 : (this.#indexByKey.get(key) ?? -1)
  }

  position(index: number): Point {
    return { x: this.x[index] ?? 0, y: this.y[index] ?? 0 }
  }

  key(index: number): string {
    return this.columns.keys[index] ?? ''
  }

  title(index: number): string {
    return this.columns.titles[index] ?? ''
  }

  categoryOf(index: number): string {
    return this.categories[this.category[index] ?? 0]?.name ?? UNCATEGORIZED
  }

  /** Return the custom property of a point's colour. */
  colourOf(index: number): string {
    return this.categories[this.category[index] ?? 0]?.colour ?? '--ink-2'
  }

  /** Return the index of the nearest visible point within a radius, or -1. */
  nearest(position: Point, radius: number, hidden: ReadonlySet<string>): number {
    let best = -1
    let bestDistance = Number.POSITIVE_INFINITY
    for (const index of this.#tree.within(position.x, position.y, radius)) {
      const distance = this.#squaredDistance(index, position)
      if (distance < bestDistance && !hidden.has(this.categoryOf(index))) {
        best = index
        bestDistance = distance
      }
    }
    return best
  }

  /** Return the visible points within bounds, those closest to the centre first. */
  within(bounds: Bounds, hidden: ReadonlySet<string>): number[] {
    const centre = { x: (bounds.minX + bounds.maxX) / 2, y: (bounds.minY + bounds.maxY) / 2 }
    return this.#tree
      .range(bounds.minX, bounds.minY, bounds.maxX, bounds.maxY)
      .filter((index) => !hidden.has(this.categoryOf(index)))
      .sort((a, b) => this.#squaredDistance(a, centre) - this.#squaredDistance(b, centre))
  }

  /** Return the next visible point to the right or left, or the one nearest to `start` for -1. */
  neighbour(from: number, step: 1 | -1, start: Point, hidden: ReadonlySet<string>): number {
    if (from < 0) return this.nearest(start, 4, hidden)
    const visible = this.#byX().filter(
      (index) => index === from || !hidden.has(this.categoryOf(index)),
    )
    return visible[visible.indexOf(from) + step] ?? from
  }

  #order: number[] | undefined

  #byX(): number[] {
    this.#order ??= Array.from(this.x.keys()).sort(
      (a, b) => (this.x[a] ?? 0) - (this.x[b] ?? 0) || a - b,
    )
    return this.#order
  }

  #squaredDistance(index: number, position: Point): number {
    return ((this.x[index] ?? 0) - position.x) ** 2 + ((this.y[index] ?? 0) - position.y) ** 2
  }
}

/** Count the rows of each category. */
function categoriesOf(names: readonly string[]): Category[] {
  const counts = new Map<string, number>()
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1)
  const sorted = sortedCategories(counts.keys()).filter((name) => name !== UNCATEGORIZED)
  const all = counts.has(UNCATEGORIZED) ? [...sorted, UNCATEGORIZED] : sorted
  return all.map((name) => ({
    name,
    count: counts.get(name) ?? 0,
    colour: categoryVariable(name, sorted),
  }))
}
