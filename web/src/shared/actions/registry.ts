/**
 * Actions: what the page can do, from one table. A view binds handlers while it is there; shortcuts,
 * palette, buttons and the host all run the same actions, and what can be undone goes on a stack.
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
  /** Runs only where nothing else is bound. */
  fallback?: boolean
}

export interface Done {
  readonly name: ActionName
  readonly parameters: Record<string, unknown>
  readonly binding: Binding
  result: unknown
}

export type Refusal = 'unknown' | 'elsewhere' | 'unbound' | 'not now'

/** A handler that returns this did nothing, so there is nothing to undo. */
export const NOTHING = Symbol('nothing')

const MOST_DONE = 200

export const actionByName = new Map<string, ActionDefinition>(
  ACTIONS.map((each) => [each.name, each]),
)
export const actionById = new Map<number, ActionDefinition>(ACTIONS.map((each) => [each.id, each]))

export class ActionRegistry {
  readonly #bindings = new Map<ActionName, Binding[]>()
  readonly #facts = new Map<Fact, Set<object>>()
  readonly #listeners = new Set<() => void>()
  readonly #done: Done[] = []
  readonly #undone: Done[] = []
  /** Runs that will be on the stack once they have ended. */
  readonly #underWay = new Set<Promise<boolean>>()
  /** Steps back and forth go one after the other. */
  #turn: Promise<unknown> = Promise.resolve()
  #stepping = 0
  readonly #observers = new Set<(name: ActionName) => void>()
  #context = 'all'
  #version = 0
  /** Where an error of a handler is shown. */
  onError: (definition: ActionDefinition, error: unknown) => void = (_, error) =>
    console.error(error)

  // --- what is known ---

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Grows whenever what may be run has changed. */
  readonly version = (): number => this.#version

  /** Told of each action that was run, undo and redo included. */
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

  /** Say that a fact is so, on behalf of `owner`. */
  setFact(fact: Fact, owner: object, so: boolean): void {
    const owners = this.#facts.get(fact) ?? new Set()
    if (owners.has(owner) === so) return
    if (so) owners.add(owner)
    else owners.delete(owner)
    this.#facts.set(fact, owners)
    this.#changed()
  }

  is(fact: Fact): boolean {
    if (fact === 'history.undo') return this.#done.length + this.#underWay.size + this.#stepping > 0
    if (fact === 'history.redo') return this.#undone.length + this.#stepping > 0
    return (this.#facts.get(fact)?.size ?? 0) > 0
  }

  // --- binding ---

  /** The binding that came last is the one that runs, fallbacks aside. */
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

  /** To be called where a binding's `enabled` was changed. */
  touch(): void {
    this.#changed()
  }

  /**
   * Why an action cannot be run now; null where it can. What is known of the selected result does not
   * bind a run that names its own.
   */
  refusal(name: ActionName, names = false): Refusal | null {
    const definition = actionByName.get(name)
    if (!definition) return 'unknown'
    const { contexts, when } = definition
    if (!contexts.includes('all') && !contexts.includes(this.#context)) return 'elsewhere'
    const binding = this.#bindings.get(name)?.at(-1)
    if (!binding) return 'unbound'
    const needed = when.filter((fact) => !(names && fact.startsWith('result.')))
    return binding.enabled && needed.every((fact) => this.is(fact)) ? null : 'not now'
  }

  can(name: ActionName, names = false): boolean {
    return this.refusal(name, names) === null
  }

  // --- running ---

  /** Run an action. Returns whether it was run; what its handler throws is shown, not thrown. */
  run<N extends ActionName>(name: N, parameters?: ActionParameters[N]): Promise<boolean> {
    const running = this.#run(name, parameters)
    if (!actionByName.get(name)?.undoable) return running
    this.#underWay.add(running)
    this.#changed()
    return running.finally(() => {
      this.#underWay.delete(running)
      this.#changed()
    })
  }

  async #run<N extends ActionName>(name: N, parameters?: ActionParameters[N]): Promise<boolean> {
    const definition = actionByName.get(name)
    const binding = this.#bindings.get(name)?.at(-1)
    if (!definition || !binding || !this.can(name, parameters !== undefined)) return false
    const given = (parameters ?? {}) as ActionParameters[ActionName]
    try {
      const returned = (binding.handler as (given: unknown) => unknown)(given)
      const result = returned instanceof Promise ? await returned : returned
      if (result === NOTHING) return true
      if (definition.undoable)
        this.#remember({ name, parameters: given, binding: { ...binding }, result })
      for (const observer of this.#observers) observer(name)
      return true
    } catch (error) {
      this.onError(definition, error)
      return false
    }
  }

  get done(): readonly Done[] {
    return this.#done
  }

  get undone(): readonly Done[] {
    return this.#undone
  }

  /** Take the last step back; what is under way is awaited first. */
  undo(): Promise<ActionDefinition | null> {
    return this.#inTurn(() =>
      this.#step(this.#done, this.#undone, async ({ binding, parameters, result }) => {
        await binding.undo?.(parameters as never, result)
        return result
      }),
    )
  }

  /** Do again what was taken back last; what is under way is awaited first. */
  redo(): Promise<ActionDefinition | null> {
    return this.#inTurn(() =>
      this.#step(this.#undone, this.#done, async ({ binding, parameters }) =>
        binding.handler(parameters as never),
      ),
    )
  }

  /** A step begins when the one before has ended, and every run that was under way. */
  async #inTurn<T>(step: () => Promise<T>): Promise<T> {
    this.#stepping += 1
    this.#changed()
    const turn = this.#turn.then(() => Promise.all(this.#underWay)).then(step)
    this.#turn = turn.catch(() => {})
    try {
      return await turn
    } finally {
      this.#stepping -= 1
      this.#changed()
    }
  }

  #remember(done: Done): void {
    if (!done.binding.undo) return
    this.#done.push(done)
    if (this.#done.length > MOST_DONE) this.#done.shift()
    this.#undone.length = 0
    this.#changed()
  }

  /** Move the last of one stack to the other; it stays where it is if that fails. */
  async #step(
    from: Done[],
    to: Done[],
    work: (done: Done) => Promise<unknown>,
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
