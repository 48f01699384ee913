import { useQuery } from '@tanstack/react-query'
import { useSearch } from 'wouter'
import { statusQuery } from './api/queries'
import type { CollectionStatus } from './bridge/codetteBridge'
import { useBridge } from './bridge/context'

export interface ChosenCollection {
  /** Its name; empty until the server has said which there are. */
  name: string
  found: CollectionStatus | undefined
  all: readonly CollectionStatus[]
  pending: boolean
  error: Error | null
}

const NONE: readonly CollectionStatus[] = []

/** The collection that the address names, else the first. */
export function useCollection(): ChosenCollection {
  const wanted = new URLSearchParams(useSearch()).get('collection')
  const { data, isPending, error } = useQuery(statusQuery(useBridge()))
  const all = data?.collections ?? NONE
  const found = wanted ? all.find(({ name }) => name === wanted) : all[0]
  return { name: wanted ?? found?.name ?? '', found, all, pending: isPending, error }
}
