/**
 * The state of a view is stored in its address. A schema defines how each member is read and
 * written and its default. A member that equals its default is omitted from the address.
 */
import { useCallback, useMemo } from 'react'
import { useLocation, useSearch } from 'wouter'
import { currentPath } from './base'

export interface Param<T> {
  readonly fallback: T
  readonly read: (text: string) => T | undefined
  readonly write: (value: T) => string
}

export type StateOf<S> = { [K in keyof S]: S[K] extends Param<infer T> ? T : never }

/** Longer texts are truncated: browsers and proxies limit the length of an address. */
const MAX_LENGTH = 2000

export const param = {
  text: (fallback = ''): Param<string> => ({
    fallback,
    read: (text) => text.slice(0, MAX_LENGTH),
    write: (value) => value,
  }),
  optional: (): Param<string | null> => ({
    fallback: null,
    read: (text) => text.slice(0, MAX_LENGTH) || null,
    write: (value) => value ?? '',
  }),
  number: (
    fallback: number | null = null,
    least = -Infinity,
    most = Infinity,
  ): Param<number | null> => ({
    fallback,
    read: (text) => {
      const value = text.trim() === '' ? Number.NaN : Number(text)
      return Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : undefined
    },
    write: (value) => (value === null ? '' : String(value)),
  }),
  oneOf: <T extends string>(values: readonly T[], fallback: T): Param<T> => ({
    fallback,
    read: (text) => values.find((value) => value === text),
    write: (value) => value,
  }),
  list: (): Param<readonly string[]> => ({
    fallback: EMPTY,
    read: (text) => text.split(',').filter(Boolean).map(decodeURIComponent),
    write: (value) => value.map(encodeURIComponent).join(','),
  }),
}
const EMPTY: readonly string[] = []

/** Members that have the same meaning in every view. Links between views keep them. */
export const SHARED = [
  'collection',
  'q',
  'category',
  'track',
  'genre',
  'bpm',
  'mode',
  'key',
] as const

// biome-ignore lint/suspicious/noExplicitAny: the members of a schema differ in type
type AnySchema = { [key: string]: Param<any> }

export function readState<S extends AnySchema>(schema: S, search: string): StateOf<S> {
  const parameters = new URLSearchParams(search)
  const members = Object.entries(schema).map(([name, { fallback, read }]) => {
    const text = parameters.get(name)
    let value: unknown
    try {
      value = text === null ? undefined : read(text)
    } catch {
      value = undefined // an invalid escape sequence
    }
    return [name, value === undefined ? fallback : value]
  })
  return Object.fromEntries(members) as StateOf<S>
}

/** Return the query of the address with `changes`. Parameters outside the schema are kept. */
export function writeState<S extends AnySchema>(
  schema: S,
  search: string,
  changes: Partial<StateOf<S>>,
): string {
  const parameters = new URLSearchParams(search)
  for (const [name, value] of Object.entries(changes)) {
    const member = schema[name]
    if (!member || value === undefined) continue
    const text = member.write(value)
    if (text === '' || text === member.write(member.fallback)) parameters.delete(name)
    else parameters.set(name, text)
  }
  return parameters.toString()
}

/** Return the members of a query that a link to another view keeps. */
export function sharedQuery(search: string): string {
  const parameters = new URLSearchParams(search)
  const shared = new URLSearchParams()
  for (const name of SHARED) {
    const value = parameters.get(name)
    if (value) shared.set(name, value)
  }
  return shared.toString()
}

export function addressOf(path: string, search: string): string {
  return search ? `${path}?${search}` : path
}

export interface SetOptions {
  /** Add an entry to the browser's history. The default replaces the current one. */
  push?: boolean
}

/** Return the state and its setter. The setter reads the current address, so calls accumulate. */
export function useUrlState<S extends AnySchema>(
  schema: S,
): [StateOf<S>, (changes: Partial<StateOf<S>>, options?: SetOptions) => void] {
  const search = useSearch()
  const [, navigate] = useLocation()
  const state = useMemo(() => readState(schema, search), [schema, search])
  const set = useCallback(
    (changes: Partial<StateOf<S>>, { push = false }: SetOptions = {}) => {
      const query = writeState(schema, window.location.search, changes)
      navigate(addressOf(currentPath(), query), { replace: !push })
    },
    [schema, navigate],
  )
  return [state, set]
}
