const COLOURS = 14

/** Return the custom property with the colour of a category. `all` must be sorted. */
export function categoryVariable(category: string | null, all: readonly string[]): string {
  const index = category === null ? -1 : all.indexOf(category)
  return index < 0 ? '--ink-2' : `--cat-${(index % COLOURS) + 1}`
}

/** Return the distinct categories, sorted: the order determines the colours in every view. */
export function sortedCategories(categories: Iterable<string | null>): string[] {
  const names = [...new Set(categories)].filter(
    (name): name is string => name !== null && name !== '',
  )
  return names.sort((a, b) => (a < b ? -1 : 1))
}

const ABBREVIATIONS: Record<string, string> = { eq: 'EQ', midi: 'MIDI' }

/** Return a name from the data for display: `sound_design` becomes "Sound design". */
export function displayName(name: string): string {
  const words = name.replaceAll('_', ' ')
  return ABBREVIATIONS[name] ?? words.charAt(0).toUpperCase() + words.slice(1)
}
