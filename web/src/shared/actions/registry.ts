/**
 * The actions of the page and their registry. A mounted view binds handlers to actions. Shortcuts,
 * palette, buttons and hosts run the same actions. An undoable run is recorded on the undo stack.
 */
import {
  ACTIONS,
  type ActionDefinition,
  type ActionName,
  type ActionParameters,
  type Fact,
} from './actions.gen'

export { ACTIONS, type ActionDefinition, type ActionName, type ActionParameters, type Fact }

export type Handler<N extends ActionName> = (parameters: ActionParameters[N]) => unknown
export type Undo<N extends ActionName> = (parameters: ActionParameters[N], result: never) => unknown

export interface Binding<N extends ActionName = ActionName> {
  handler: Handler<N>
  undo?: (parameters: ActionParameters[N], result: unknown) => unknown
  enabled: boolean
  /** Runs only if no other handler is bound. */
  fallback?: boolean
}

/** A run that can be undone or redone. */
export interface HistoryEntry {
  readonly name: ActionName
  readonly parameters: Record<string, unknown>
  readonly binding: Binding
  result: unknown
}

/** Why an action cannot run. `disabled` means that a required fact is not set. */
export type Refusal = 'unknown' | 'other view' | 'unbound' | 'disabled'

/** Returned by a handler that changed nothing. The run is not recorded for undo. */
export const NOTHING = Symbol('nothing')

const HISTORY_LIMIT = 200

export const actionByName = new Map<string, ActionDefinition>(
  ACTIONS.map((action) => [action.name, action]),
)
export const actionById = new Map<number, ActionDefinition>(
  ACTIONS.map((action) => [action.id, action]),
)

export class ActionRegistry {
  readonly #bindings = new Map<ActionName, Binding[]>()
  readonly #facts = new Map<Fact, Set<object>>()
  readonly #listeners = new Set<() => void>()
  readonly #undoStack: HistoryEntry[] = []
  readonly #redoStack: HistoryEntry[] = []
  /** Undoable runs that have not finished. */
  readonly #running = new Set<Promise<boolean>>()
  /** Resolves when the last undo or redo has finished. */
  #lastStep: Promise<unknown> = Promise.resolve()
  /** Number of undo and redo steps that have not finished. */
  #steps = 0
  readonly #observers = new Set<(name: ActionName) => void>()
  #context = 'all'
  #version = 0
  /** Called with an error that a handler threw. */
  onError: (definition: ActionDefinition, error: unknown) => void = (_, error) =>
    console.error(error)

  // --- state ---

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Incremented when the set of runnable actions may have changed. */
  readonly version = (): number => this.#version

  /** Call `observer` after each run, including undo and redo. */
  observe(observer: (name: ActionName) => void): () => void {
    this.#observers.add(observer)
    return () => this.#observers.delete(observer)
  }

  get context(): string {
    return this.#context
  }

  setContext(context: string): void {
    if (context === this.#context) return
    this.#context = context
    this.#changed()
  }

  /** Set or clear a fact on behalf of `owner`. A fact holds while any owner has set it. */
  setFact(fact: Fact, owner: object, value: boolean): void {
    const owners = this.#facts.get(fact) ?? new Set()
    if (owners.has(owner) === value) return
    if (value) owners.add(owner)
    else owners.delete(owner)
    this.#facts.set(fact, owners)
    this.#changed()
  }

  is(fact: Fact): boolean {
    if (fact === 'history.undo')
      return this.#undoStack.length + this.#running.size + this.#steps > 0
    if (fact === 'history.redo') return this.#redoStack.length + this.#steps > 0
    return (this.#facts.get(fact)?.size ?? 0) > 0
  }

  // --- binding ---

  /** Bind a handler. The last binding runs. A fallback runs only if it is the only binding. */
  bind<N extends ActionName>(name: N, binding: Binding<N>): () => void {
    const bound = this.#bindings.get(name) ?? []
    if (binding.fallback) bound.unshift(binding as unknown as Binding)
    else bound.push(binding as unknown as Binding)
    this.#bindings.set(name, bound)
    this.#changed()
    return () => {
      bound.splice(bound.indexOf(binding as unknown as Binding), 1)
      this.#changed()
    }
  }

  /** Notify the listeners after a change of a binding's `enabled`. */
  touch(): void {
    this.#changed()
  }

  /**
   * Return why an action cannot run, or null if it can. `hasParameters` means that the parameters
   * name a result, so facts about the selected result do not apply.
   */
  refusal(name: ActionName, hasParameters = false): Refusal | null {
    const definition = actionByName.get(name)
    if (!definition) return 'unknown'
    const { contexts, when } = definition
    if (!contexts.includes('all') && !contexts.includes(this.#context)) return 'other view'
    const binding = this.#bindings.get(name)?.at(-1)
    if (!binding) return 'unbound'
    const required = when.filter((fact) => !(hasParameters && fact.startsWith('result.')))
    return binding.enabled && required.every((fact) => this.is(fact)) ? null : 'disabled'
  }

  can(name: ActionName, hasParameters = false): boolean {
    return this.refusal(name, hasParameters) === null
  }

  // --- running ---

  /** Run an action and return whether it succeeded. Errors of the handler go to `onError`. */
  run<N extends ActionName>(name: N, parameters?: ActionParameters[N]): Promise<boolean> {
    const run = this.#run(name, parameters)
    if (!actionByName.get(name)?.undoable) return run
    this.#running.add(run)
    this.#changed()
    return run.finally(() => {
      this.#running.delete(run)
      this.#changed()
    })
  }

  async #run<N extends ActionName>(name: N, parameters?: ActionParameters[N]): Promise<boolean> {
    const definition = actionByName.get(name)
    const binding = this.#bindings.get(name)?.at(-1)
    if (!definition || !binding || !this.can(name, parameters !== undefined)) return false
    const input = (parameters ?? {}) as ActionParameters[ActionName]
    try {
      const returned = (binding.handler as (input: unknown) => unknown)(input)
      const result = returned instanceof Promise ? await returned : returned
      if (result === NOTHING) return true
      if (definition.undoable)
        this.#record({ name, parameters: input, binding: { ...binding }, result })
      for (const observer of this.#observers) observer(name)
      return true
    } catch (error) {
      this.onError(definition, error)
      return false
    }
  }

  get undoStack(): readonly HistoryEntry[] {
    return this.#undoStack
  }

  get redoStack(): readonly HistoryEntry[] {
    return this.#redoStack
  }

  /** Undo the last recorded run, after the unfinished ones. Return its action, or null. */
  undo(): Promise<ActionDefinition | null> {
    return this.#afterPrevious(() =>
      this.#step(this.#undoStack, this.#redoStack, async ({ binding, parameters, result }) => {
        await binding.undo?.(parameters as never, result)
        return result
      }),
    )
  }

  /** Redo the last undone run, after the unfinished ones. Return its action, or null. */
  redo(): Promise<ActionDefinition | null> {
    return this.#afterPrevious(() =>
      this.#step(this.#redoStack, this.#undoStack, async ({ binding, parameters }) =>
        binding.handler(parameters as never),
      ),
    )
  }

  /** Start a step when the previous step and all unfinished runs have finished. */
  async #afterPrevious<T>(step: () => Promise<T>): Promise<T> {
    this.#steps += 1
    this.#changed()
    const result = this.#lastStep.then(() => Promise.all(this.#running)).then(step)
    this.#lastStep = result.catch(() => {})
    try {
      return await result
    } finally {
      this.#steps -= 1
      this.#changed()
    }
  }

  #record(entry: HistoryEntry): void {
    if (!entry.binding.undo) return
    this.#undoStack.push(entry)
    if (this.#undoStack.length > HISTORY_LIMIT) this.#undoStack.shift()
    this.#redoStack.length = 0
    this.#changed()
  }

  /** Move the last entry to the other stack. If `work` fails, it returns to its stack. */
  async #step(
    from: HistoryEntry[],
    to: HistoryEntry[],
    work: (entry: HistoryEntry) => Promise<unknown>,
  ): Promise<ActionDefinition | null> {
    const entry = from.pop()
    if (!entry) return null
    this.#changed()
    const definition = actionByName.get(entry.name) as ActionDefinition
    try {
      entry.result = await work(entry)
      to.push(entry)
      return definition
    } catch (error) {
      from.push(entry)
      this.onError(definition, error)
      return null
    } finally {
      this.#changed()
    }
  }

  #changed(): void {
    this.#version += 1
    for (const listener of this.#listeners) listener()
  }
}

export const registry = new ActionRegistry()

export const runAction = registry.run.bind(registry)
