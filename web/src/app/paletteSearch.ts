/** What the palette lists for a few letters. Pure. */
import fuzzysort from 'fuzzysort'
import {
  ACTIONS,
  type ActionDefinition,
  type ActionName,
  type Refusal,
} from '../shared/actions/registry'

export interface Piece {
  at: number
  text: string
  hit: boolean
}

export interface Found {
  action: ActionDefinition
  /** Its title, cut where the letters were found. */
  pieces: readonly Piece[]
}

export interface Group {
  title: string
  items: readonly Found[]
}

const OFFERED = ACTIONS.filter(({ palette, name }) => palette && name !== 'palette.open')
const RECENT = 5
const MOST = 40

function cut(title: string, indexes: readonly number[]): Piece[] {
  const hits = new Set(indexes)
  const pieces: Piece[] = []
  for (let at = 0; at < title.length; at += 1) {
    const hit = hits.has(at)
    const last = pieces.at(-1)
    if (last && last.hit === hit) last.text += title.charAt(at)
    else pieces.push({ at, text: title.charAt(at), hit })
  }
  return pieces
}

function whole(action: ActionDefinition): Found {
  return { action, pieces: cut(action.title, []) }
}

/** What cannot be run now goes last. */
function runnableFirst(
  items: readonly Found[],
  refusal: (name: ActionName) => Refusal | null,
): Found[] {
  const [can, cannot]: [Found[], Found[]] = [[], []]
  for (const item of items) (refusal(item.action.name) ? cannot : can).push(item)
  return [...can, ...cannot]
}

export function groups(
  query: string,
  recent: readonly string[],
  refusal: (name: ActionName) => Refusal | null,
): Group[] {
  const wanted = query.trim()
  if (wanted) {
    const items = matches(wanted)
    return items.length ? [{ title: 'Actions', items: runnableFirst(items, refusal) }] : []
  }
  const used = recent
    .map((name) => OFFERED.find((action) => action.name === name))
    .filter((action) => action !== undefined)
    .filter(({ name }) => !refusal(name))
    .slice(0, RECENT)
  const categories = [...new Set(OFFERED.map(({ category }) => category))]
  const all = categories.map((title) => ({
    title,
    items: OFFERED.filter((action) => action.category === title && !refusal(action.name)).map(
      whole,
    ),
  }))
  return [{ title: 'Recently used', items: used.map(whole) }, ...all].filter(
    ({ items }) => items.length,
  )
}

function matches(query: string): Found[] {
  const found = fuzzysort.go(query, [...OFFERED], {
    keys: ['title', 'description', 'category'],
    limit: MOST,
    threshold: 0.3,
    // The title is what a person has in mind.
    scoreFn: ([title, description, category]) =>
      Math.max(title?.score ?? 0, 0.6 * (description?.score ?? 0), 0.6 * (category?.score ?? 0)),
  })
  return found.map((result) => ({
    action: result.obj,
    pieces: cut(result.obj.title, result[0]?.indexes ?? []),
  }))
}
