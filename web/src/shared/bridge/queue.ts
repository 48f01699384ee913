import { OfflineError } from './errors'

export interface Waiting {
  readonly id: number
  readonly label: string
  readonly since: number
}

interface Entry extends Waiting {
  readonly send: () => Promise<void>
  readonly refuse: (error: Error) => void
}

/** Requests that wait for the connection. Each leaves it before it is sent, so it is sent at most once. */
export class RequestQueue {
  readonly #entries: Entry[] = []
  readonly #most: number
  readonly #changed: () => void
  #next = 1
  #flushing = false

  constructor(most: number, changed: () => void) {
    this.#most = most
    this.#changed = changed
  }

  get waiting(): readonly Waiting[] {
    return this.#entries.map(({ id, label, since }) => ({ id, label, since }))
  }

  get length(): number {
    return this.#entries.length
  }

  /** Wait for the connection, then do it; an abort takes it out again. */
  add<T>(label: string, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (this.#entries.length >= this.#most) {
      return Promise.reject(
        new OfflineError(
          `The server is not reached, and ${this.#most} requests wait already.`,
          false,
        ),
      )
    }
    return new Promise<T>((resolve, reject) => {
      const id = this.#next++
      const send = () => work().then(resolve, reject)
      this.#entries.push({ id, label, since: Date.now(), send, refuse: reject })
      signal?.addEventListener('abort', () => this.remove(id, signal.reason), { once: true })
      this.#changed()
    })
  }

  remove(
    id: number,
    reason: unknown = new OfflineError('Taken back before it was sent.', false),
  ): boolean {
    const at = this.#entries.findIndex((entry) => entry.id === id)
    if (at < 0) return false
    const [entry] = this.#entries.splice(at, 1)
    entry?.refuse(reason as Error)
    this.#changed()
    return true
  }

  /** Send what waits, in order, one at a time, while `may` says so. */
  async flush(may: () => boolean): Promise<void> {
    if (this.#flushing) return
    this.#flushing = true
    try {
      while (may()) {
        const entry = this.#entries.shift()
        if (!entry) return
        this.#changed()
        await entry.send()
      }
    } finally {
      this.#flushing = false
    }
  }

  clear(error: Error): void {
    const gone = this.#entries.splice(0)
    for (const entry of gone) entry.refuse(error)
    if (gone.length) this.#changed()
  }
}
