/**
 * The state of a view lives in its address. A schema names each member, how it reads, how it is
 * written, and what it is where the address is silent; what equals its default is not written.
 */
import { useCallback, useMemo } from 'react'
import { useLocation, useSearch } from 'wouter'

export interface Param<T> {
  readonly fallback: T
  readonly read: (text: string) => T | undefined
  readonly write: (value: T) => string
}

export type StateOf<S> = { [K in keyof S]: S[K] extends Param<infer T> ? T : never }

/** Where a text has to be cut: an address has an end. */
const LONGEST = 2000

export const param = {
  text: (fallback = ''): Param<string> => ({
    fallback,
    read: (text) => text.slice(0, LONGEST),
    write: (value) => value,
  }),
  optional: (): Param<string | null> => ({
    fallback: null,
    read: (text) => text.slice(0, LONGEST) || null,
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

/** Members that mean the same in every view, and go along from one to the other. */
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
  const given = new URLSearchParams(search)
  const found = Object.entries(schema).map(([name, { fallback, read }]) => {
    const text = given.get(name)
    let value: unknown
    try {
      value = text === null ? undefined : read(text)
    } catch {
      value = undefined // a broken escape
    }
    return [name, value === undefined ? fallback : value]
  })
  return Object.fromEntries(found) as StateOf<S>
}

/** The query of the address with `changes` made; what the schema does not know is kept. */
export function writeState<S extends AnySchema>(
  schema: S,
  search: string,
  changes: Partial<StateOf<S>>,
): string {
  const written = new URLSearchParams(search)
  for (const [name, value] of Object.entries(changes)) {
    const member = schema[name]
    if (!member || value === undefined) continue
    const text = member.write(value)
    if (text === '' || text === member.write(member.fallback)) written.delete(name)
    else written.set(name, text)
  }
  return written.toString()
}

/** The shared part of an address's query, for a link to another view. */
export function carried(search: string): string {
  const given = new URLSearchParams(search)
  const kept = new URLSearchParams()
  for (const name of SHARED) {
    const value = given.get(name)
    if (value) kept.set(name, value)
  }
  return kept.toString()
}

export function addressOf(path: string, search: string): string {
  return search ? `${path}?${search}` : path
}

export interface SetOptions {
  /** Replace the entry of the browser's history instead of adding one; default: replace. */
  push?: boolean
}

/** State and setter. The setter reads the address as it is when called, so that calls add up. */
export function useUrlState<S extends AnySchema>(
  schema: S,
): [StateOf<S>, (changes: Partial<StateOf<S>>, options?: SetOptions) => void] {
  const search = useSearch()
  const [, navigate] = useLocation()
  const state = useMemo(() => readState(schema, search), [schema, search])
  const set = useCallback(
    (changes: Partial<StateOf<S>>, { push = false }: SetOptions = {}) => {
      const query = writeState(schema, window.location.search, changes)
      navigate(addressOf(window.location.pathname, query), { replace: !push })
    },
    [schema, navigate],
  )
  return [state, set]
}
