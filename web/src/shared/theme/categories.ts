const COLOURS = 14

/** The custom property that colours a category, by its place among all, which must be sorted. */
export function categoryVariable(category: string | null, all: readonly string[]): string {
  const at = category === null ? -1 : all.indexOf(category)
  return at < 0 ? '--ink-2' : `--cat-${(at % COLOURS) + 1}`
}

/** The categories in the order that gives each its colour, here and on the map. */
export function inOrder(categories: Iterable<string | null>): string[] {
  const known = [...new Set(categories)].filter(
    (each): each is string => each !== null && each !== '',
  )
  return known.sort((a, b) => (a < b ? -1 : 1))
}

/** A name from the data as a person reads it: `sound_design` is "Sound design". */
export function spoken(name: string): string {
  const SHORT: Record<string, string> = { eq: 'EQ', midi: 'MIDI' }
  const words = name.replaceAll('_', ' ')
  return SHORT[name] ?? words.charAt(0).toUpperCase() + words.slice(1)
}
