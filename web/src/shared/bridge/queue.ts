import { OfflineError } from './errors'

export interface Waiting {
  readonly id: number
  readonly label: string
  readonly since: number
}

interface Entry extends Waiting {
  readonly send: () => Promise<void>
  readonly reject: (error: Error) => void
}

/**
 * Requests that wait for the connection. An entry leaves the queue before it is sent, so each is
 * sent at most once.
 */
export class RequestQueue {
  readonly #entries: Entry[] = []
  readonly #limit: number
  readonly #onChange: () => void
  #next = 1
  #flushing = false

  constructor(limit: number, onChange: () => void) {
    this.#limit = limit
    this.#onChange = onChange
  }

  get waiting(): readonly Waiting[] {
    return this.#entries.map(({ id, label, since }) => ({ id, label, since }))
  }

  get length(): number {
    return this.#entries.length
  }

  /** Queue a request and return its result. Aborting `signal` removes it. */
  add<T>(label: string, request: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (this.#entries.length >= this.#limit) {
      return Promise.reject(
        new OfflineError(
          `The server is unreachable and the queue is full (${this.#limit}).`,
          false,
        ),
      )
    }
    return new Promise<T>((resolve, reject) => {
      const id = this.#next++
      const send = () => request().then(resolve, reject)
      this.#entries.push({ id, label, since: Date.now(), send, reject })
      signal?.addEventListener('abort', () => this.remove(id, signal.reason), { once: true })
      this.#onChange()
    })
  }

  remove(
    id: number,
    reason: unknown = new OfflineError('Cancelled before it was sent.', false),
  ): boolean {
    const index = this.#entries.findIndex((entry) => entry.id === id)
    if (index < 0) return false
    const [entry] = this.#entries.splice(index, 1)
    entry?.reject(reason as Error)
    this.#onChange()
    return true
  }

  /** Send the entries in order, one at a time, while `canSend` returns true. */
  async flush(canSend: () => boolean): Promise<void> {
    if (this.#flushing) return
    this.#flushing = true
    try {
      while (canSend()) {
        const entry = this.#entries.shift()
        if (!entry) return
        this.#onChange()
        await entry.send()
      }
    } finally {
      this.#flushing = false
    }
  }

  clear(error: Error): void {
    const entries = this.#entries.splice(0)
    for (const entry of entries) entry.reject(error)
    if (entries.length) this.#onChange()
  }
}
