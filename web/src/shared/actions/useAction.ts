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
  /** Reverts the handler. `result` is the handler's return value. */
  undo?: (parameters: ActionParameters[N], result: R) => unknown
  /** Runs only if no view binds the action. */
  fallback?: boolean
}

/**
 * Bind a handler to an action while the component is mounted. The handler of the last render runs.
 * Undo still works after the component is unmounted.
 */
export function useAction<N extends ActionName, R>(
  name: N,
  handler: (parameters: ActionParameters[N]) => R | Promise<R>,
  { enabled = true, undo, fallback = false }: UseActionOptions<N, Awaited<R>> = {},
): void {
  const latest = useRef({ handler, undo })
  const binding = useRef<Binding<N>>(null)
  useLayoutEffect(() => {
    latest.current = { handler, undo }
  })
  const undoable = undo !== undefined
  useLayoutEffect(() => {
    const current: Binding<N> = {
      handler: (parameters) => latest.current.handler(parameters),
      enabled: true,
      fallback,
      ...(undoable && {
        undo: (parameters, result) => latest.current.undo?.(parameters, result as Awaited<R>),
      }),
    }
    binding.current = current
    return registry.bind(name, current)
  }, [name, undoable, fallback])
  useLayoutEffect(() => {
    if (!binding.current || binding.current.enabled === enabled) return
    binding.current.enabled = enabled
    registry.touch()
  }, [enabled])
}

/**
 * Set facts, which enable actions, while the component is mounted. A layout effect sets them before
 * the paint, so that a shortcut works as soon as its button is visible.
 */
export function useFacts(facts: Partial<Record<Fact, boolean>>): void {
  const owner = useRef<object>({})
  const text = JSON.stringify(facts)
  useLayoutEffect(() => {
    const self = owner.current
    const entries = Object.entries(JSON.parse(text)) as [Fact, boolean][]
    for (const [fact, value] of entries) registry.setFact(fact, self, value)
    return () => {
      for (const [fact] of entries) registry.setFact(fact, self, false)
    }
  }, [text])
}

/** Return the registry and render again when the set of runnable actions changes. */
export function useRegistry() {
  useSyncExternalStore(registry.subscribe, registry.version)
  return registry
}

/** Return whether an action can run. */
export function useCan(name: ActionName, hasParameters = false): boolean {
  return useSyncExternalStore(registry.subscribe, () => registry.can(name, hasParameters))
}
