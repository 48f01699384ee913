import { useQuery } from '@tanstack/react-query'
import { useSearch } from 'wouter'
import { statusQuery } from './api/queries'
import type { CollectionStatus } from './bridge/codetteBridge'
import { useBridge } from './bridge/context'

export interface SelectedCollection {
  /** Name in the address or of the first collection. Empty while the collections load. */
  name: string
  /** Undefined while the collections load, or if none has the name. */
  status: CollectionStatus | undefined
  all: readonly CollectionStatus[]
  pending: boolean
  error: Error | null
}

const NONE: readonly CollectionStatus[] = []

/** Return the collection in the address, or the first one. */
export function useCollection(): SelectedCollection {
  const selected = new URLSearchParams(useSearch()).get('collection')
  const { data, isPending, error } = useQuery(statusQuery(useBridge()))
  const all = data?.collections ?? NONE
  const status = selected ? all.find(({ name }) => name === selected) : all[0]
  return { name: selected ?? status?.name ?? '', status, all, pending: isPending, error }
}
