import { describe, expect, it } from 'vitest'
import { Cloud } from '@/features/map/cloud'
import { disc, Raster } from '@/features/map/raster'
import {
  boundsOf,
  boundsShown,
  CLOSEST,
  fitTo,
  held,
  panned,
  toMap,
  toScreen,
  zoomed,
} from '@/features/map/view'

const SIZE = { width: 800, height: 600 }

describe('the view', () => {
  it('shows the whole map within its margins', () => {
    const view = fitTo(SIZE)
    const corner = toScreen(view, SIZE, { x: 1, y: 1 })
    expect(corner.y).toBeCloseTo(36)
    expect(corner.x).toBeCloseTo(764) // a wide screen is filled
  })

  it('finds the place under a pixel', () => {
    const view = { x: 0.3, y: -0.2, scale: 512, stretch: 1.4 }
    const place = toMap(view, SIZE, { x: 120, y: 430 })
    const pixel = toScreen(view, SIZE, place)
    expect(pixel.x).toBeCloseTo(120)
    expect(pixel.y).toBeCloseTo(430)
  })

  it('keeps the place under the pointer while it zooms', () => {
    const pixel = { x: 700, y: 80 }
    const before = fitTo(SIZE)
    const after = zoomed(before, SIZE, 3, pixel)
    expect(after.scale).toBeCloseTo(before.scale * 3)
    expect(toMap(after, SIZE, pixel).x).toBeCloseTo(toMap(before, SIZE, pixel).x)
    expect(toMap(after, SIZE, pixel).y).toBeCloseTo(toMap(before, SIZE, pixel).y)
  })

  it('comes neither too close nor too far', () => {
    const whole = fitTo(SIZE)
    expect(zoomed(whole, SIZE, 1e6, { x: 0, y: 0 }).scale).toBeCloseTo(whole.scale * CLOSEST)
    expect(zoomed(whole, SIZE, 1e-6, { x: 0, y: 0 }).scale).toBeCloseTo(whole.scale / 2)
  })

  it('follows the pointer while it is dragged, and stays on the map', () => {
    const view = panned({ x: 0, y: 0, scale: 100, stretch: 2 }, 50, 20)
    expect(view).toEqual({ x: -0.25, y: 0.2, scale: 100, stretch: 2 })
    expect(held({ x: -7, y: 3, scale: 100, stretch: 1 })).toEqual({
      x: -1,
      y: 1,
      scale: 100,
      stretch: 1,
    })
  })

  it('shows bounds as large as they fitTo, also those of one point', () => {
    const bounds = boundsOf([
      { x: 0.2, y: 0.2 },
      { x: 0.4, y: -0.2 },
    ])
    const shown = boundsShown(fitTo(SIZE, bounds), SIZE)
    expect(shown.minY).toBeLessThanOrEqual(-0.2)
    expect(shown.maxY).toBeGreaterThanOrEqual(0.2)
    expect(fitTo(SIZE, boundsOf([{ x: 0.5, y: 0.5 }])).scale).toBeLessThan(20_000)
  })
})

describe('the cloud', () => {
  const cloud = new Cloud({
    keys: ['a', 'b', 'c', 'd'],
    x: [-0.5, 0, 0.1, 0.9],
    y: [0, 0, 0.1, 0.9],
    titles: ['A', 'B', 'C', 'D'],
    categories: ['mixing', 'drums', 'mixing', null],
  })
  const all = new Set<string>()

  it('counts its categories and gives each the colour that it has everywhere', () => {
    expect(cloud.categories).toEqual([
      { name: 'drums', count: 1, colour: '--cat-1' },
      { name: 'mixing', count: 2, colour: '--cat-2' },
      { name: 'no category', count: 1, colour: '--ink-2' },
    ])
    expect(cloud.categoryOf(cloud.find('d'))).toBe('no category')
  })

  it('finds the nearest shown point within a radius', () => {
    expect(cloud.key(cloud.nearest({ x: 0.02, y: 0 }, 0.3, all))).toBe('b')
    expect(cloud.key(cloud.nearest({ x: 0.02, y: 0 }, 0.3, new Set(['drums'])))).toBe('c')
    expect(cloud.nearest({ x: 0.5, y: -0.9 }, 0.1, all)).toBe(-1)
    expect(cloud.find('no such key')).toBe(-1)
  })

  it('lists the points within bounds from the middle outward', () => {
    const bounds = { minX: -0.6, minY: -0.3, maxX: 0.6, maxY: 0.3 }
    expect(cloud.within(bounds, all).map((at) => cloud.key(at))).toEqual(['b', 'c', 'a'])
    expect(cloud.within(bounds, new Set(['mixing'])).map((at) => cloud.key(at))).toEqual(['b'])
  })

  it('steps from point to point, left to right, over the shown ones only', () => {
    const start = { x: 0, y: 0 }
    expect(cloud.key(cloud.neighbour(-1, 1, start, all))).toBe('b')
    expect(cloud.key(cloud.neighbour(cloud.find('b'), 1, start, all))).toBe('c')
    expect(cloud.key(cloud.neighbour(cloud.find('a'), 1, start, new Set(['drums'])))).toBe('c')
    expect(cloud.key(cloud.neighbour(cloud.find('d'), 1, start, all))).toBe('d')
  })

  it('holds ten thousand points', () => {
    const many = Array.from({ length: 10_000 }, (_, at) => at)
    const large = new Cloud({
      keys: many.map(String),
      x: many.map((at) => Math.cos(at) * (at / 10_000)),
      y: many.map((at) => Math.sin(at) * (at / 10_000)),
      titles: many.map(String),
      categories: many.map((at) => `c${at % 20}`),
    })
    const place = large.place(7777)
    expect(large.nearest(place, 0.05, all)).toBe(7777)
    expect(large.categories).toHaveLength(20)
  })
})

describe('the picture of points', () => {
  const WHITE = 0xffffffff
  const BLACK = 0xff000000
  const RED = 0xff0000ff
  const raster = (width: number, height: number) =>
    new Raster({ width, height, data: new Uint8ClampedArray(4 * width * height) } as ImageData)

  it('a point covers its pixels, and a little of those at its edge', () => {
    const picture = raster(12, 12)
    picture.clear(BLACK)
    picture.stamp(disc(3, 1), 2, 2, WHITE)
    const shown = Array.from(picture.pixels)
    expect(shown[6 * 12 + 6]).toBe(WHITE)
    expect(shown[0]).toBe(BLACK)
    expect(shown.some((pixel) => pixel !== BLACK && pixel !== WHITE)).toBe(true)
    const lit = shown.reduce((sum, pixel) => sum + (pixel & 0xff) / 255, 0)
    expect(lit).toBeCloseTo(Math.PI * 9, 0)
  })

  it('channels are blended each by itself, and stay opaque', () => {
    const picture = raster(6, 6)
    picture.clear(0xff204060)
    picture.stamp(disc(2, 0.5), 0, 0, 0xffe0a080)
    expect((picture.pixels[3 * 6 + 3] ?? 0).toString(16)).toBe('ff807070')
    picture.stamp(disc(2, 0.5), 0, 0, 0xffe0a080)
    expect((picture.pixels[3 * 6 + 3] ?? 0).toString(16)).toBe('ffb08878')
  })

  it('what lies outside is left out, at every edge', () => {
    const point = disc(2, 1)
    for (const [left, top] of [
      [-3, 1],
      [1, -3],
      [6, 1],
      [1, 6],
      [-9, -9],
      [20, 20],
    ] as const) {
      const [inside, whole] = [raster(8, 8), raster(40, 40)]
      inside.clear(BLACK)
      whole.clear(BLACK)
      inside.stamp(point, left, top, RED)
      whole.stamp(point, left + 16, top + 16, RED)
      const cut = Array.from({ length: 64 }, (_, at) => {
        return whole.pixels[(16 + Math.floor(at / 8)) * 40 + 16 + (at % 8)]
      })
      expect(Array.from(inside.pixels)).toEqual(cut)
    }
  })

  it('lines of the grid are cut at the edges', () => {
    const picture = raster(4, 4)
    picture.clear(BLACK)
    picture.fill(-5, 1, 7, 1, WHITE)
    picture.fill(3, 2, 9, 9, RED)
    picture.fill(9, 9, 3, 3, RED)
    const rows = [0, 1, 2, 3].map((y) => Array.from(picture.pixels.slice(4 * y, 4 * y + 4)))
    expect(rows).toEqual([
      [BLACK, BLACK, BLACK, BLACK],
      [WHITE, WHITE, BLACK, BLACK],
      [BLACK, BLACK, BLACK, RED],
      [BLACK, BLACK, BLACK, RED],
    ])
  })
})
