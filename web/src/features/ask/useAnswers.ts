import { useQuery } from '@tanstack/react-query'
import { useEffect, useMemo, useState } from 'react'
import { facetsQuery, searchQuery, suggestQuery } from '@/shared/api/queries'
import { useBridge } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { type Answer, answersOf } from './answers'
import type { AskState } from './state'

const DEBOUNCE_MS = 140
/** Suggestions to weigh against a context; the server gives no more. */
const CONSIDERED = 30

export function useDebounced<T>(value: T, ms = DEBOUNCE_MS): T {
  const [settled, settle] = useState(value)
  useEffect(() => {
    const timer = setTimeout(() => settle(value), ms)
    return () => clearTimeout(timer)
  }, [value, ms])
  return settled
}

export interface Facet {
  column: string
  values: readonly { value: string; count: number }[]
}

/** The column that sorts a collection's rows into kinds. */
export function useFacet(): Facet | null {
  const { name } = useCollection()
  const { data } = useQuery(facetsQuery(useBridge(), name))
  return useMemo(() => {
    const facets = data?.facets ?? {}
    const column = facets.category ? 'category' : Object.keys(facets)[0]
    return column ? { column, values: facets[column] ?? [] } : null
  }, [data])
}

export interface Answers {
  list: readonly Answer[]
  /** Nothing was asked. */
  idle: boolean
  /** The first answer is awaited. */
  loading: boolean
  /** What is shown answers an older question. */
  stale: boolean
  error: Error | null
  /** Why nothing is known, where nothing relevant is. */
  unknown: string | null
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

export function useAnswers(state: AskState, facet: Facet | null): Answers {
  const bridge = useBridge()
  const { name } = useCollection()
  const query = state.q.trim()
  const collection = name || undefined
  const context = contextOf(state)
  const hasContext = Object.keys(context).length > 0
  const limit = Math.max(state.n ?? 0, 1)
  const where = state.category && { [facet?.column ?? 'category']: state.category }
  const search = useQuery(
    searchQuery(bridge, {
      query,
      collection,
      mode: state.mode,
      limit: hasContext ? Math.max(limit, CONSIDERED) : limit,
      ...(where && { where }),
    }),
  )
  const suggest = useQuery(
    suggestQuery(bridge, { prompt: query, context, collection, limit: CONSIDERED }),
  )
  const idle = query === ''
  const list = useMemo(
    () => (idle ? [] : answersOf(search.data, suggest.data, hasContext, limit)),
    [idle, search.data, suggest.data, hasContext, limit],
  )
  return {
    list,
    idle,
    loading: !idle && search.isPending,
    stale: !idle && search.isPlaceholderData,
    error: idle ? null : search.error,
    unknown: suggest.isPlaceholderData ? null : (suggest.data?.message ?? null),
    more: !idle && list.length === limit,
    tookMs: search.data?.tookMs ?? null,
    retry: () => void search.refetch(),
  }
}
