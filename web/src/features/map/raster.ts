/**
 * A picture in memory that points are blended into by hand. Ten thousand points drawn one by one keep
 * a canvas busy for most of a frame; here a frame is one pass over arrays and one copy to the canvas.
 *
 * Pixels are 32 bits, alpha first (0xAABBGGRR), as ImageData has them on every processor that a
 * browser runs on; lengths are device pixels.
 */

/** The share of each pixel that a point covers, of 256, row by row. */
export interface Stamp {
  readonly size: number
  readonly coverage: Uint16Array
}

const SAMPLES = 4

/** A disc of a radius, with soft edges, of an opacity from 0 to 1. */
export function disc(radius: number, opacity: number): Stamp {
  const size = 2 * Math.ceil(radius + 0.5)
  const coverage = new Uint16Array(size * size)
  for (let at = 0; at < coverage.length; at++) {
    const share = covered((at % size) - size / 2, Math.floor(at / size) - size / 2, radius)
    coverage[at] = Math.round(256 * opacity * share)
  }
  return { size, coverage }
}

/** How much of the pixel whose corner this is lies within a circle around the origin. */
function covered(left: number, top: number, radius: number): number {
  let inside = 0
  for (let at = 0; at < SAMPLES * SAMPLES; at++) {
    const x = left + ((at % SAMPLES) + 0.5) / SAMPLES
    const y = top + (Math.floor(at / SAMPLES) + 0.5) / SAMPLES
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

  /** A rectangle of one colour; what is outside is left out. */
  fill(left: number, top: number, width: number, height: number, colour: number): void {
    const from = Math.max(left, 0)
    const to = Math.min(left + width, this.width)
    if (from >= to) return
    for (let y = Math.max(top, 0); y < Math.min(top + height, this.height); y++) {
      this.pixels.fill(colour, y * this.width + from, y * this.width + to)
    }
  }

  /** Blend a colour with its left upper corner at a pixel; what is outside is left out. */
  stamp({ size, coverage }: Stamp, left: number, top: number, colour: number): void {
    const { width, height, pixels } = this
    const firstX = Math.max(0, -left)
    const endX = Math.min(size, width - left)
    const endY = Math.min(size, height - top)
    const redBlue = colour & 0xff00ff
    const green = colour & 0x00ff00
    for (let row = Math.max(0, -top); row < endY; row++) {
      let at = (top + row) * width + left + firstX
      for (let from = row * size + firstX; from < row * size + endX; from++, at++) {
        const share = coverage[from] as number
        if (share === 0) continue
        const below = pixels[at] as number
        const belowRedBlue = below & 0xff00ff
        const belowGreen = below & 0x00ff00
        const rest = 256 - share
        // Two channels in one multiplication; what one spills falls into the gap between them.
        const mixedRedBlue = (Math.imul(redBlue, share) + Math.imul(belowRedBlue, rest)) >>> 8
        const mixedGreen = (Math.imul(green, share) + Math.imul(belowGreen, rest)) >>> 8
        pixels[at] = 0xff000000 | (mixedRedBlue & 0xff00ff) | (mixedGreen & 0x00ff00)
      }
    }
  }
}
