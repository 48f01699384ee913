/** Searches the actions of the palette. Pure functions. */
import fuzzysort from 'fuzzysort'
import {
  ACTIONS,
  type ActionDefinition,
  type ActionName,
  type Refusal,
} from '@/shared/actions/registry'

export interface Piece {
  /** Offset of the piece in the title. */
  start: number
  text: string
  matched: boolean
}

export interface PaletteItem {
  action: ActionDefinition
  /** The title, split at the matched letters. */
  pieces: readonly Piece[]
}

export interface Group {
  title: string
  items: readonly PaletteItem[]
}

const PALETTE_ACTIONS = ACTIONS.filter(({ palette, name }) => palette && name !== 'palette.open')
const MAX_RECENT = 5
const MAX_MATCHES = 40

function split(title: string, indexes: readonly number[]): Piece[] {
  const matches = new Set(indexes)
  const pieces: Piece[] = []
  for (let index = 0; index < title.length; index += 1) {
    const matched = matches.has(index)
    const last = pieces.at(-1)
    if (last && last.matched === matched) last.text += title.charAt(index)
    else pieces.push({ start: index, text: title.charAt(index), matched })
  }
  return pieces
}

function unmatched(action: ActionDefinition): PaletteItem {
  return { action, pieces: split(action.title, []) }
}

/** Move the actions that cannot run to the end. */
function runnableFirst(
  items: readonly PaletteItem[],
  refusal: (name: ActionName) => Refusal | null,
): PaletteItem[] {
  const isRunnable = ({ action }: PaletteItem) => !refusal(action.name)
  return [...items.filter(isRunnable), ...items.filter((item) => !isRunnable(item))]
}

/** Return the groups for a query, or the recent and all runnable actions for an empty query. */
export function groups(
  query: string,
  recent: readonly string[],
  refusal: (name: ActionName) => Refusal | null,
): Group[] {
  const text = query.trim()
  if (text) {
    const items = matches(text)
    return items.length ? [{ title: 'Actions', items: runnableFirst(items, refusal) }] : []
  }
  const used = recent
    .map((name) => PALETTE_ACTIONS.find((action) => action.name === name))
    .filter((action) => action !== undefined)
    .filter(({ name }) => !refusal(name))
    .slice(0, MAX_RECENT)
  const categories = [...new Set(PALETTE_ACTIONS.map(({ category }) => category))]
  const all = categories.map((title) => ({
    title,
    items: PALETTE_ACTIONS.filter(
      (action) => action.category === title && !refusal(action.name),
    ).map(unmatched),
  }))
  return [{ title: 'Recently used', items: used.map(unmatched) }, ...all].filter(
    ({ items }) => items.length,
  )
}

function matches(query: string): PaletteItem[] {
  const results = fuzzysort.go(query, [...PALETTE_ACTIONS], {
    keys: ['title', 'description', 'category'],
    limit: MAX_MATCHES,
    threshold: 0.3,
    // A match in the title outranks one in the description or the category.
    scoreFn: ([title, description, category]) =>
      Math.max(title?.score ?? 0, 0.6 * (description?.score ?? 0), 0.6 * (category?.score ?? 0)),
  })
  return results.map((result) => ({
    action: result.obj,
    pieces: split(result.obj.title, result[0]?.indexes ?? []),
  }))
}
