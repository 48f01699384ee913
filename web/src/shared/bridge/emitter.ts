/** Typed events. An error in one handler is logged and does not stop the others. */
export class Emitter<Events extends object> {
  readonly #handlers = new Map<keyof Events, Set<(data: never) => void>>()

  on<K extends keyof Events>(event: K, handler: (data: Events[K]) => void): () => void {
    const handlers = this.#handlers.get(event) ?? new Set()
    handlers.add(handler)
    this.#handlers.set(event, handlers)
    return () => handlers.delete(handler)
  }

  emit<K extends keyof Events>(event: K, data: Events[K]): void {
    for (const handler of [...(this.#handlers.get(event) ?? [])]) {
      try {
        ;(handler as (data: Events[K]) => void)(data)
      } catch (error) {
        console.error(error)
      }
    }
  }
}
