import { useLayoutEffect, useRef, useSyncExternalStore } from 'react'
import {
  type ActionName,
  type ActionParameters,
  type Binding,
  type Fact,
  registry,
} from './registry'

export { runAction } from './registry'

export interface UseActionOptions<N extends ActionName, R> {
  enabled?: boolean
  /** Takes back what the handler did; `result` is what it returned. */
  undo?: (parameters: ActionParameters[N], result: R) => unknown
  /** Runs only where no view binds the action. */
  fallback?: boolean
}

/**
 * Bind a handler to an action while the component is there. The newest handler runs; what was done
 * can be undone after the component has gone, too.
 */
export function useAction<N extends ActionName, R>(
  name: N,
  handler: (parameters: ActionParameters[N]) => R | Promise<R>,
  { enabled = true, undo, fallback = false }: UseActionOptions<N, Awaited<R>> = {},
): void {
  const newest = useRef({ handler, undo })
  const binding = useRef<Binding<N>>(null)
  useLayoutEffect(() => {
    newest.current = { handler, undo }
  })
  const undoable = undo !== undefined
  useLayoutEffect(() => {
    const made: Binding<N> = {
      handler: (parameters) => newest.current.handler(parameters),
      enabled: true,
      fallback,
      ...(undoable && {
        undo: (parameters, result) => newest.current.undo?.(parameters, result as Awaited<R>),
      }),
    }
    binding.current = made
    return registry.bind(name, made)
  }, [name, undoable, fallback])
  useLayoutEffect(() => {
    if (!binding.current || binding.current.enabled === enabled) return
    binding.current.enabled = enabled
    registry.touch()
  }, [enabled])
}

/**
 * Say what is so while the component is there: actions wait for facts. It is said with the picture
 * that shows it, so that a key that is pressed at once finds it said.
 */
export function useFacts(facts: Partial<Record<Fact, boolean>>): void {
  const owner = useRef<object>({})
  const text = JSON.stringify(facts)
  useLayoutEffect(() => {
    const mine = owner.current
    const given = Object.entries(JSON.parse(text)) as [Fact, boolean][]
    for (const [fact, so] of given) registry.setFact(fact, mine, so)
    return () => {
      for (const [fact] of given) registry.setFact(fact, mine, false)
    }
  }, [text])
}

/** The registry's state, so that a component shows what may be run. */
export function useRegistry() {
  useSyncExternalStore(registry.subscribe, registry.version)
  return registry
}

/** Whether an action may be run now. */
export function useCan(name: ActionName, names = false): boolean {
  return useSyncExternalStore(registry.subscribe, () => registry.can(name, names))
}
