import { useQuery } from '@tanstack/react-query'
import { useMemo } from 'react'
import { answersQuery, facetsQuery } from '@/shared/api/queries'
import { useBridge } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { type Answer, answersOf } from './answers'
import type { AskState } from './state'

/** Suggestions to weigh against a context; the server gives no more. */
const CONSIDERED = 30

export interface Facet {
  column: string
  values: readonly { value: string; count: number }[]
}

/** The column that sorts a collection's rows into kinds; undefined until that is known. */
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
  /** Nothing was asked. */
  idle: boolean
  /** The first answer is awaited. */
  loading: boolean
  /** What is shown answers an older question; hits and reasons change together. */
  stale: boolean
  error: Error | null
  /** There are hits, and none is relevant: they are kept back until the nearest are asked for. */
  keptBack: boolean
  more: boolean
  tookMs: number | null
  retry: () => void
}

function contextOf({ track, genre, bpm }: AskState) {
  return {
    ...(track && { trackType: track }),
    ...(genre && { genre }),
    ...(bpm !== null && { bpm }),
  }
}

export function useAnswers(state: AskState, facet: Facet | null | undefined): Answers {
  const bridge = useBridge()
  const { name, error } = useCollection()
  const query = state.q.trim()
  const context = contextOf(state)
  const hasContext = Object.keys(context).length > 0
  const limit = Math.max(state.n ?? 0, 1)
  const where = state.category && { [facet?.column ?? 'category']: state.category }
  const search = {
    query,
    collection: name,
    mode: state.mode,
    limit: hasContext ? Math.max(limit, CONSIDERED) : limit,
    ...(where && { where }),
  }
  const suggest = { prompt: query, context, collection: name, limit: CONSIDERED }
  // Asked once, in the collection and by the column that are meant, not first in others.
  const ready = name !== '' && !(state.category && facet === undefined)
  const found = useQuery(answersQuery(bridge, search, suggest, ready))
  const idle = query === ''
  const { data } = found
  const irrelevant = data?.suggestions?.message != null && state.mode !== 'keyword'
  const keptBack = !idle && irrelevant && state.nearest === 'no' && data.hits.hits.length > 0
  const list = useMemo(
    () => (idle || keptBack ? [] : answersOf(data, hasContext, limit)),
    [idle, keptBack, data, hasContext, limit],
  )
  return {
    list,
    idle,
    loading: !idle && found.isPending,
    stale: !idle && found.isPlaceholderData,
    error: idle ? null : (found.error ?? (name ? null : error)),
    keptBack,
    more: !idle && list.length === limit,
    tookMs: data?.hits.tookMs ?? null,
    retry: () => void found.refetch(),
  }
}
