import { useQuery } from '@tanstack/react-query'
import { useMemo } from 'react'
import { answersQuery, facetsQuery } from '../api/queries'
import { useBridge } from '../bridge/context'
import { useCollection } from '../collection'
import { type Answer, answersOf } from './answers'
import type { SearchState } from './state'

/** Number of suggestions to rank by context: the maximum that the server returns. */
const SUGGESTION_LIMIT = 30

export interface Facet {
  column: string
  values: readonly { value: string; count: number }[]
}

/**
 * Return the category column of the collection. Undefined means loading, null means no such
 * column.
 */
export function useFacet(): Facet | null | undefined {
  const { name } = useCollection()
  const { data, error } = useQuery(facetsQuery(useBridge(), name))
  return useMemo(() => {
    if (!data) return error ? null : undefined
    const { facets } = data
    const column = facets.category ? 'category' : Object.keys(facets)[0]
    return column ? { column, values: facets[column] ?? [] } : null
  }, [data, error])
}

export interface Answers {
  list: readonly Answer[]
  /** The query is empty. */
  idle: boolean
  /** The first response is pending. */
  loading: boolean
  /** The list belongs to a previous query. */
  stale: boolean
  error: Error | null
  /** There are hits but none is relevant. They stay hidden until `nearest` is set. */
  hidden: boolean
  more: boolean
  tookMs: number | null
  retry: () => void
}

function contextOf({ track, genre, bpm }: SearchState) {
  return {
    ...(track && { trackType: track }),
    ...(genre && { genre }),
    ...(bpm !== null && { bpm }),
  }
}

/** The search and suggestion requests of a state. */
function requestsOf(state: SearchState, collection: string, categoryColumn: string, limit: number) {
  const query = state.q.trim()
  const context = contextOf(state)
  const hasContext = Object.keys(context).length > 0
  const where = state.category && { [categoryColumn]: state.category }
  return {
    hasContext,
    search: {
      query,
      collection,
      mode: state.mode,
      limit: hasContext ? Math.max(limit, SUGGESTION_LIMIT) : limit,
      ...(where && { where }),
    },
    suggest: { prompt: query, context, collection, limit: SUGGESTION_LIMIT },
  }
}

export function useAnswers(state: SearchState, facet: Facet | null | undefined): Answers {
  const bridge = useBridge()
  const { name, error } = useCollection()
  const limit = Math.max(state.n ?? 0, 1)
  const column = facet?.column ?? 'category'
  const { search, suggest, hasContext } = requestsOf(state, name, column, limit)
  // Wait for the collection and the category column: an earlier request would use the wrong ones.
  const ready = name !== '' && !(state.category && facet === undefined)
  const result = useQuery(answersQuery(bridge, search, suggest, ready))
  const idle = search.query === ''
  const { data } = result
  const irrelevant = data?.suggestions?.message != null && state.mode !== 'keyword'
  const hidden = !idle && irrelevant && state.nearest === 'no' && data.hits.hits.length > 0
  const list = useMemo(
    () => (idle || hidden ? [] : answersOf(data, hasContext, limit)),
    [idle, hidden, data, hasContext, limit],
  )
  return {
    list,
    idle,
    loading: !idle && result.isPending,
    stale: !idle && result.isPlaceholderData,
    error: idle ? null : (result.error ?? (name ? null : error)),
    hidden,
    more: !idle && list.length === limit,
    tookMs: data?.hits.tookMs ?? null,
    retry: () => void result.refetch(),
  }
}
