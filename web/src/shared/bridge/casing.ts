/** Converts between the snake_case of the server and the camelCase of the studio. */

/** Members with keys from the data, which stay unchanged. */
const OPAQUE = new Set(['parameters', 'row', 'facets', 'parts', 'where'])

function camel(key: string): string {
  return key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

function snake(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

function converted(value: unknown, rename: (key: string) => string): unknown {
  if (Array.isArray(value)) {
    // Arrays of numbers or strings can be long and contain no keys.
    return typeof value[0] === 'object' ? value.map((item) => converted(item, rename)) : value
  }
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value).map(([key, member]) => [
      rename(key),
      OPAQUE.has(key) ? member : converted(member, rename),
    ]),
  )
}

export const fromWire = (value: unknown): unknown => converted(value, camel)
export const toWire = (value: unknown): unknown => converted(value, snake)
