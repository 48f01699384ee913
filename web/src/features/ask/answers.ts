/** From hits and suggestions to what a card shows. Pure. */
import type { Found } from '@/shared/api/queries'
import type { Hit, Suggestion } from '@/shared/bridge/codetteBridge'

export interface Answer {
  key: string
  title: string
  advice: string
  category: string | null
  topic: string | null
  parameters: Record<string, unknown>
  confidence: number | null
  /** Cosine; null where meaning did not find it. */
  dense: number | null
  /** BM25; null where words did not find it. */
  keyword: number | null
  /** Both together, as the search ranks. */
  fused: number
  /** Why it fits the context, in words. */
  reason: string | null
  /** The words of the question that are in it. */
  words: ReadonlySet<string>
}

const TITLES = ['title', 'name', 'subject', 'headline']
const TEXTS = ['suggestion', 'description', 'body', 'text', 'answer']

function firstText(row: Record<string, unknown>, names: readonly string[]): string | null {
  for (const name of names) {
    const value = row[name]
    if (typeof value === 'string' && value.trim()) return value
  }
  return null
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The words that a snippet marks, in lower case. */
export function markedWords(snippet: string | null): Set<string> {
  const found = (snippet ?? '').matchAll(/<mark>(.*?)<\/mark>/g)
  return new Set([...found].map(([, word = '']) => word.toLowerCase()))
}

export interface Piece {
  at: number
  text: string
  marked: boolean
}

/** A text cut where words of the question begin and end. */
export function pieces(text: string, words: ReadonlySet<string>): Piece[] {
  if (words.size === 0) return [{ at: 0, text, marked: false }]
  const found: Piece[] = []
  let at = 0
  for (const part of text.split(/([\p{L}\p{N}]+)/u)) {
    const marked = words.has(part.toLowerCase())
    const last = found.at(-1)
    if (last && last.marked === marked) last.text += part
    else if (part) found.push({ at, text: part, marked })
    at += part.length
  }
  return found
}

function answer(hit: Hit, suggestion: Suggestion | undefined): Answer {
  const { row, parts } = hit
  return {
    key: hit.key,
    title: firstText(row, TITLES) ?? hit.key,
    advice: firstText(row, TEXTS) ?? hit.content,
    category: typeof row.category === 'string' ? row.category : null,
    topic: typeof row.topic === 'string' ? row.topic : null,
    parameters: isRecord(row.parameters) ? row.parameters : {},
    confidence: typeof row.confidence === 'number' ? row.confidence : null,
    dense: parts.dense ?? null,
    keyword: parts.keyword ?? null,
    fused: hit.score,
    reason: suggestion?.reason ?? null,
    words: markedWords(hit.snippet),
  }
}

/**
 * The hits, and where there is a context, those first that suit it, in that order: the search knows
 * how it ranked, the suggestions know the context.
 */
export function answersOf(found: Found | undefined, hasContext: boolean, limit: number): Answer[] {
  const place = new Map(found?.suggestions?.suggestions.map((each, at) => [each.id, { at, each }]))
  const answers = (found?.hits.hits ?? []).map((hit) => answer(hit, place.get(hit.key)?.each))
  if (hasContext) {
    const last = answers.length
    const placeOf = ({ key }: Answer) => place.get(key)?.at ?? last
    answers.sort((a, b) => placeOf(a) - placeOf(b))
  }
  return answers.slice(0, limit)
}
