/**
 * An image in memory into which points are blended. Canvas calls for 10,000 points take most of a
 * frame. Here a frame is one pass over arrays and one copy to the canvas.
 *
 * Pixels have 32 bits, 0xAABBGGRR: the layout of ImageData on little-endian processors. Lengths are
 * device pixels.
 */

/** The coverage of each pixel by a point, from 0 to 256, row by row. */
export interface Stamp {
  readonly size: number
  readonly coverage: Uint16Array
}

const SAMPLES = 4

/** Return an antialiased disc with an opacity between 0 and 1. */
export function disc(radius: number, opacity: number): Stamp {
  const size = 2 * Math.ceil(radius + 0.5)
  const coverage = new Uint16Array(size * size)
  for (let index = 0; index < coverage.length; index++) {
    const left = (index % size) - size / 2
    const top = Math.floor(index / size) - size / 2
    coverage[index] = Math.round(256 * opacity * coveredFraction(left, top, radius))
  }
  return { size, coverage }
}

/** Return the fraction of a pixel that lies inside a circle around the origin. */
function coveredFraction(left: number, top: number, radius: number): number {
  let inside = 0
  for (let sample = 0; sample < SAMPLES * SAMPLES; sample++) {
    const x = left + ((sample % SAMPLES) + 0.5) / SAMPLES
    const y = top + (Math.floor(sample / SAMPLES) + 0.5) / SAMPLES
    if (x * x + y * y <= radius * radius) inside += 1
  }
  return inside / (SAMPLES * SAMPLES)
}

export class Raster {
  readonly width: number
  readonly height: number
  readonly image: ImageData
  readonly pixels: Uint32Array

  constructor(image: ImageData) {
    this.image = image
    this.width = image.width
    this.height = image.height
    this.pixels = new Uint32Array(image.data.buffer)
  }

  clear(colour: number): void {
    this.pixels.fill(colour)
  }

  /** Fill a rectangle, clipped to the image. */
  fill(left: number, top: number, width: number, height: number, colour: number): void {
    const from = Math.max(left, 0)
    const to = Math.min(left + width, this.width)
    if (from >= to) return
    for (let y = Math.max(top, 0); y < Math.min(top + height, this.height); y++) {
      this.pixels.fill(colour, y * this.width + from, y * this.width + to)
    }
  }

  /** Blend a colour into the image with the stamp's upper left corner at a pixel, clipped. */
  stamp({ size, coverage }: Stamp, left: number, top: number, colour: number): void {
    const { width, height, pixels } = this
    const firstX = Math.max(0, -left)
    const endX = Math.min(size, width - left)
    const endY = Math.min(size, height - top)
    const redBlue = colour & 0xff00ff
    const green = colour & 0x00ff00
    for (let row = Math.max(0, -top); row < endY; row++) {
      let target = (top + row) * width + left + firstX
      for (let source = row * size + firstX; source < row * size + endX; source++, target++) {
        const share = coverage[source] as number
        if (share === 0) continue
        const below = pixels[target] as number
        const belowRedBlue = below & 0xff00ff
        const belowGreen = below & 0x00ff00
        const rest = 256 - share
        // One multiplication blends red and blue: the unused bits between them absorb the carry.
        const mixedRedBlue = (Math.imul(redBlue, share) + Math.imul(belowRedBlue, rest)) >>> 8
        const mixedGreen = (Math.imul(green, share) + Math.imul(belowGreen, rest)) >>> 8
        pixels[target] = 0xff000000 | (mixedRedBlue & 0xff00ff) | (mixedGreen & 0x00ff00)
      }
    }
  }
}
