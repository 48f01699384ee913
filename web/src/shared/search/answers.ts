/** Converts hits and suggestions to the content of result cards. Pure functions. */
import type { HitsAndSuggestions } from '../api/queries'
import type { Hit, Suggestion } from '../bridge/codetteBridge'

export interface Answer {
  key: string
  title: string
  advice: string
  category: string | null
  topic: string | null
  parameters: Record<string, unknown>
  confidence: number | null
  /** Cosine similarity, or null if the semantic ranking did not return the row. */
  dense: number | null
  /** BM25 score, or null if the keyword ranking did not return the row. */
  keyword: number | null
  /** The fused score that orders the results. */
  fused: number
  /** Why the row suits the context. */
  reason: string | null
  /** Words of the query that occur in the row, in lower case. */
  words: ReadonlySet<string>
}

const TITLE_COLUMNS = ['title', 'name', 'subject', 'headline']
const TEXT_COLUMNS = ['suggestion', 'description', 'body', 'text', 'answer']

function firstText(row: Record<string, unknown>, columns: readonly string[]): string | null {
  for (const column of columns) {
    const value = row[column]
    if (typeof value === 'string' && value.trim()) return value
  }
  return null
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Return the words that a snippet marks, in lower case. */
export function markedWords(snippet: string | null): Set<string> {
  const matches = (snippet ?? '').matchAll(/<mark>(.*?)<\/mark>/g)
  return new Set([...matches].map(([, word = '']) => word.toLowerCase()))
}

export interface Piece {
  /** Offset of the piece in the text. */
  start: number
  text: string
  marked: boolean
}

/** Split a text at the boundaries of the marked words. */
export function pieces(text: string, words: ReadonlySet<string>): Piece[] {
  if (words.size === 0) return [{ start: 0, text, marked: false }]
  const result: Piece[] = []
  let start = 0
  for (const part of text.split(/([\p{L}\p{N}]+)/u)) {
    const marked = words.has(part.toLowerCase())
    const last = result.at(-1)
    if (last && last.marked === marked) last.text += part
    else if (part) result.push({ start, text: part, marked })
    start += part.length
  }
  return result
}

function answer(hit: Hit, suggestion: Suggestion | undefined): Answer {
  const { row, parts } = hit
  return {
    key: hit.key,
    title: firstText(row, TITLE_COLUMNS) ?? hit.key,
    advice: firstText(row, TEXT_COLUMNS) ?? hit.content,
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
 * Return the first `limit` answers in the order of the search. With a context, answers that are
 * also suggestions come first, in the order of the suggestions: only they account for the
 * context.
 */
export function answersOf(
  data: HitsAndSuggestions | undefined,
  hasContext: boolean,
  limit: number,
): Answer[] {
  const suggestions = data?.suggestions?.suggestions ?? []
  const byId = new Map(suggestions.map((suggestion, rank) => [suggestion.id, { suggestion, rank }]))
  const hits = data?.hits.hits ?? []
  const answers = hits.map((hit) => answer(hit, byId.get(hit.key)?.suggestion))
  if (hasContext) {
    const rankOf = ({ key }: Answer) => byId.get(key)?.rank ?? hits.length
    answers.sort((a, b) => rankOf(a) - rankOf(b))
  }
  return answers.slice(0, limit)
}
