/** The reads of the server as TanStack query options: each key stands beside its function. */
import { keepPreviousData, queryOptions } from '@tanstack/react-query'
import {
  type CodetteBridge,
  ProblemError,
  type SearchRequest,
  type SearchResults,
  type Suggestions,
  type SuggestRequest,
} from '../bridge/codetteBridge'

/** Reads fail immediately while offline and are repeated on reconnect. */
const read = (signal: AbortSignal) => ({ signal, queue: false })

export const statusQuery = (bridge: CodetteBridge) =>
  queryOptions({
    queryKey: ['status'],
    queryFn: ({ signal }) => bridge.status(read(signal)),
    staleTime: 10_000,
  })

export const runsQuery = (bridge: CodetteBridge, collection: string, limit = 50) =>
  queryOptions({
    queryKey: ['runs', collection, limit],
    queryFn: ({ signal }) => bridge.runs({ collection, limit }, read(signal)),
    enabled: collection !== '',
  })

export const failuresQuery = (
  bridge: CodetteBridge,
  collection: string,
  after: string | null = null,
  limit = 100,
) =>
  queryOptions({
    queryKey: ['failures', collection, after, limit],
    queryFn: ({ signal }) =>
      bridge.failures({ collection, limit, after: after ?? undefined }, read(signal)),
    enabled: collection !== '',
    placeholderData: keepPreviousData,
  })

export const evaluationQuery = (bridge: CodetteBridge, collection: string) =>
  queryOptions({
    queryKey: ['evaluation', collection],
    queryFn: ({ signal }) => bridge.evaluation(collection, read(signal)),
    enabled: collection !== '',
    // The server sends no event when a comparison ends.
    refetchInterval: ({ state }) => (state.data?.running ? 2_000 : false),
  })

/** How often an open change is read again, by its state: the server sends no event for it. */
const CHANGE_POLL_MS: Partial<Record<string, number>> = {
  filling: 2_000,
  indexing: 2_000,
  ready: 10_000,
  serving: 10_000,
  retiring: 2_000,
  cancelling: 2_000,
}

export const modelChangeQuery = (bridge: CodetteBridge, collection: string) =>
  queryOptions({
    queryKey: ['modelChange', collection],
    queryFn: ({ signal }) => bridge.modelChange(collection, read(signal)),
    enabled: collection !== '',
    refetchInterval: ({ state }) => CHANGE_POLL_MS[state.data?.change?.state ?? ''] ?? false,
  })

export interface HitsAndSuggestions {
  hits: SearchResults
  /** Null for a collection that does not support suggestions. */
  suggestions: Suggestions | null
}

/** Hits and suggestions share one key, so both always belong to the same query. */
export const answersQuery = (
  bridge: CodetteBridge,
  search: SearchRequest,
  suggest: SuggestRequest,
  ready: boolean,
) =>
  queryOptions({
    queryKey: ['answers', search, suggest],
    queryFn: async ({ signal }): Promise<HitsAndSuggestions> => {
      const [hits, suggestions] = await Promise.all([
        bridge.search(search, read(signal)),
        bridge.suggest(suggest, read(signal)).catch(nullIfUnsupported),
      ])
      return { hits, suggestions }
    },
    enabled: ready && search.query.trim() !== '',
    placeholderData: keepPreviousData,
    staleTime: 30_000,
  })

/** Treat a refusal as an unsupported collection, except for a missing API key. */
function nullIfUnsupported(error: unknown): null {
  if (error instanceof ProblemError && !error.needsKey) return null
  throw error
}

export const facetsQuery = (bridge: CodetteBridge, collection: string) =>
  queryOptions({
    queryKey: ['facets', collection],
    queryFn: ({ signal }) => bridge.facets(collection, read(signal)),
    enabled: collection !== '',
    staleTime: 60_000,
  })

export const mapQuery = (bridge: CodetteBridge, collection: string, limit = 10_000) =>
  queryOptions({
    queryKey: ['map', collection, limit],
    queryFn: ({ signal }) => bridge.map(collection, limit, read(signal)),
    enabled: collection !== '',
    staleTime: 60_000,
    structuralSharing: false,
  })

/** The position of a query on the map with the same limit. */
export const placeQuery = (bridge: CodetteBridge, q: string, collection: string, limit = 10_000) =>
  queryOptions({
    queryKey: ['place', collection, q, limit],
    queryFn: ({ signal }) => bridge.mapQuery(q, collection, limit, read(signal)),
    enabled: q.trim() !== '' && collection !== '',
    placeholderData: keepPreviousData,
    staleTime: 60_000,
  })
