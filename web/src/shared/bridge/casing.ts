/** The wire speaks snake_case, the studio camelCase; this is the one place where they meet. */

/** Members whose keys belong to the data, not to the protocol. */
const OPAQUE = new Set(['parameters', 'row', 'facets', 'parts', 'where'])

function camel(key: string): string {
  return key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

function snake(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

function converted(value: unknown, rename: (key: string) => string): unknown {
  if (Array.isArray(value)) {
    // Columns of numbers and names are many and need nothing.
    return typeof value[0] === 'object' ? value.map((each) => converted(each, rename)) : value
  }
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value).map(([key, each]) => [
      rename(key),
      OPAQUE.has(key) ? each : converted(each, rename),
    ]),
  )
}

export const fromWire = (value: unknown): unknown => converted(value, camel)
export const toWire = (value: unknown): unknown => converted(value, snake)
