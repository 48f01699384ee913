import { describe, expect, it } from 'vitest'
import { Cloud } from '@/features/map/cloud'
import { disc, Raster } from '@/features/map/raster'
import {
  boundsOf,
  clamped,
  fitTo,
  MAX_ZOOM,
  panned,
  toMap,
  toScreen,
  visibleBounds,
  zoomed,
} from '@/features/map/view'

const SIZE = { width: 800, height: 600 }

describe('view', () => {
  it('fits the whole map inside the margins', () => {
    const view = fitTo(SIZE)
    const corner = toScreen(view, SIZE, { x: 1, y: 1 })
    expect(corner.y).toBeCloseTo(36)
    expect(corner.x).toBeCloseTo(764) // x is stretched to fill a wide screen
  })

  it('converts a pixel to the map position and back', () => {
    const view = { x: 0.3, y: -0.2, scale: 512, stretch: 1.4 }
    const position = toMap(view, SIZE, { x: 120, y: 430 })
    const pixel = toScreen(view, SIZE, position)
    expect(pixel.x).toBeCloseTo(120)
    expect(pixel.y).toBeCloseTo(430)
  })

  it('zooms around the pointer', () => {
    const pixel = { x: 700, y: 80 }
    const before = fitTo(SIZE)
    const after = zoomed(before, SIZE, 3, pixel)
    expect(after.scale).toBeCloseTo(before.scale * 3)
    expect(toMap(after, SIZE, pixel).x).toBeCloseTo(toMap(before, SIZE, pixel).x)
    expect(toMap(after, SIZE, pixel).y).toBeCloseTo(toMap(before, SIZE, pixel).y)
  })

  it('limits the zoom in both directions', () => {
    const whole = fitTo(SIZE)
    expect(zoomed(whole, SIZE, 1e6, { x: 0, y: 0 }).scale).toBeCloseTo(whole.scale * MAX_ZOOM)
    expect(zoomed(whole, SIZE, 1e-6, { x: 0, y: 0 }).scale).toBeCloseTo(whole.scale / 2)
  })

  it('follows the pointer while dragging and stays on the map', () => {
    const view = panned({ x: 0, y: 0, scale: 100, stretch: 2 }, 50, 20)
    expect(view).toEqual({ x: -0.25, y: 0.2, scale: 100, stretch: 2 })
    expect(clamped({ x: -7, y: 3, scale: 100, stretch: 1 })).toEqual({
      x: -1,
      y: 1,
      scale: 100,
      stretch: 1,
    })
  })

  it('fits bounds at the largest scale, including those of a single point', () => {
    const bounds = boundsOf([
      { x: 0.2, y: 0.2 },
      { x: 0.4, y: -0.2 },
    ])
    const visible = visibleBounds(fitTo(SIZE, bounds), SIZE)
    expect(visible.minY).toBeLessThanOrEqual(-0.2)
    expect(visible.maxY).toBeGreaterThanOrEqual(0.2)
    expect(fitTo(SIZE, boundsOf([{ x: 0.5, y: 0.5 }])).scale).toBeLessThan(20_000)
  })
})

describe('cloud', () => {
  const cloud = new Cloud({
    keys: ['a', 'b', 'c', 'd'],
    x: [-0.5, 0, 0.1, 0.9],
    y: [0, 0, 0.1, 0.9],
    titles: ['A', 'B', 'C', 'D'],
    categories: ['mixing', 'drums', 'mixing', null],
  })
  const all = new Set<string>()

  it('counts its categories and assigns the shared colours', () => {
    expect(cloud.categories).toEqual([
      { name: 'drums', count: 1, colour: '--cat-1' },
      { name: 'mixing', count: 2, colour: '--cat-2' },
      { name: 'no category', count: 1, colour: '--ink-2' },
    ])
    expect(cloud.categoryOf(cloud.find('d'))).toBe('no category')
  })

  it('returns the nearest visible point within a radius', () => {
    expect(cloud.key(cloud.nearest({ x: 0.02, y: 0 }, 0.3, all))).toBe('b')
    expect(cloud.key(cloud.nearest({ x: 0.02, y: 0 }, 0.3, new Set(['drums'])))).toBe('c')
    expect(cloud.nearest({ x: 0.5, y: -0.9 }, 0.1, all)).toBe(-1)
    expect(cloud.find('no such key')).toBe(-1)
  })

  it('sorts the points within bounds by distance from the centre', () => {
    const bounds = { minX: -0.6, minY: -0.3, maxX: 0.6, maxY: 0.3 }
    expect(cloud.within(bounds, all).map((index) => cloud.key(index))).toEqual(['b', 'c', 'a'])
    expect(cloud.within(bounds, new Set(['mixing'])).map((index) => cloud.key(index))).toEqual([
      'b',
    ])
  })

  it('steps to the next visible point on the right', () => {
    const start = { x: 0, y: 0 }
    expect(cloud.key(cloud.neighbour(-1, 1, start, all))).toBe('b')
    expect(cloud.key(cloud.neighbour(cloud.find('b'), 1, start, all))).toBe('c')
    expect(cloud.key(cloud.neighbour(cloud.find('a'), 1, start, new Set(['drums'])))).toBe('c')
    expect(cloud.key(cloud.neighbour(cloud.find('d'), 1, start, all))).toBe('d')
  })

  it('finds points among 10,000', () => {
    const many = Array.from({ length: 10_000 }, (_, index) => index)
    const large = new Cloud({
      keys: many.map(String),
      x: many.map((n) => Math.cos(n) * (n / 10_000)),
      y: many.map((n) => Math.sin(n) * (n / 10_000)),
      titles: many.map(String),
      categories: many.map((n) => `c${n % 20}`),
    })
    const position = large.position(7777)
    expect(large.nearest(position, 0.05, all)).toBe(7777)
    expect(large.categories).toHaveLength(20)
  })
})

describe('raster', () => {
  const WHITE = 0xffffffff
  const BLACK = 0xff000000
  const RED = 0xff0000ff
  const raster = (width: number, height: number) =>
    new Raster({ width, height, data: new Uint8ClampedArray(4 * width * height) } as ImageData)

  it('draws a disc with antialiased edges', () => {
    const image = raster(12, 12)
    image.clear(BLACK)
    image.stamp(disc(3, 1), 2, 2, WHITE)
    const pixels = Array.from(image.pixels)
    expect(pixels[6 * 12 + 6]).toBe(WHITE)
    expect(pixels[0]).toBe(BLACK)
    expect(pixels.some((pixel) => pixel !== BLACK && pixel !== WHITE)).toBe(true)
    const covered = pixels.reduce((sum, pixel) => sum + (pixel & 0xff) / 255, 0)
    expect(covered).toBeCloseTo(Math.PI * 9, 0)
  })

  it('blends each channel separately and stays opaque', () => {
    const image = raster(6, 6)
    image.clear(0xff204060)
    image.stamp(disc(2, 0.5), 0, 0, 0xffe0a080)
    expect((image.pixels[3 * 6 + 3] ?? 0).toString(16)).toBe('ff807070')
    image.stamp(disc(2, 0.5), 0, 0, 0xffe0a080)
    expect((image.pixels[3 * 6 + 3] ?? 0).toString(16)).toBe('ffb08878')
  })

  it('clips a disc at every edge', () => {
    const point = disc(2, 1)
    for (const [left, top] of [
      [-3, 1],
      [1, -3],
      [6, 1],
      [1, 6],
      [-9, -9],
      [20, 20],
    ] as const) {
      const [small, large] = [raster(8, 8), raster(40, 40)]
      small.clear(BLACK)
      large.clear(BLACK)
      small.stamp(point, left, top, RED)
      large.stamp(point, left + 16, top + 16, RED)
      const section = Array.from({ length: 64 }, (_, index) => {
        return large.pixels[(16 + Math.floor(index / 8)) * 40 + 16 + (index % 8)]
      })
      expect(Array.from(small.pixels)).toEqual(section)
    }
  })

  it('clips rectangles at the edges', () => {
    const image = raster(4, 4)
    image.clear(BLACK)
    image.fill(-5, 1, 7, 1, WHITE)
    image.fill(3, 2, 9, 9, RED)
    image.fill(9, 9, 3, 3, RED)
    const rows = [0, 1, 2, 3].map((y) => Array.from(image.pixels.slice(4 * y, 4 * y + 4)))
    expect(rows).toEqual([
      [BLACK, BLACK, BLACK, BLACK],
      [WHITE, WHITE, BLACK, BLACK],
      [BLACK, BLACK, BLACK, RED],
      [BLACK, BLACK, BLACK, RED],
    ])
  })
})
