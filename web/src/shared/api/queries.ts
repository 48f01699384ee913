/** Every read of the server as TanStack query options: one key, one function, one place. */
import { keepPreviousData, queryOptions } from '@tanstack/react-query'
import type { CodetteBridge, SearchRequest, SuggestRequest } from '../bridge/codetteBridge'

/** A read fails at once while offline: the page says so, and reads again when it is back. */
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

export const searchQuery = (bridge: CodetteBridge, request: SearchRequest) =>
  queryOptions({
    queryKey: ['search', request],
    queryFn: ({ signal }) => bridge.search(request, read(signal)),
    enabled: request.query.trim() !== '',
    placeholderData: keepPreviousData,
    staleTime: 30_000,
  })

export const suggestQuery = (bridge: CodetteBridge, request: SuggestRequest) =>
  queryOptions({
    queryKey: ['suggest', request],
    queryFn: ({ signal }) => bridge.suggest(request, read(signal)),
    enabled: (request.prompt ?? '').trim() !== '',
    placeholderData: keepPreviousData,
    staleTime: 30_000,
  })

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

/** The place of a question on the map of the same limit. */
export const placeQuery = (bridge: CodetteBridge, q: string, collection: string, limit = 10_000) =>
  queryOptions({
    queryKey: ['place', collection, q, limit],
    queryFn: ({ signal }) => bridge.mapQuery(q, collection, limit, read(signal)),
    enabled: q.trim() !== '' && collection !== '',
    placeholderData: keepPreviousData,
    staleTime: 60_000,
  })
