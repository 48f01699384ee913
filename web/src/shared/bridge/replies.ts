import * as v from 'valibot'
import { OfflineError, ProblemError } from './errors'
import { frameError } from './schema'

interface Pending {
  resolve: (data: unknown) => void
  reject: (error: Error) => void
  timer: ReturnType<typeof setTimeout>
}

/** Frames that were sent with an id and have no reply yet. */
export class PendingReplies {
  readonly #pending = new Map<string, Pending>()
  readonly #timeoutMs: number
  #nextId = 1

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs
  }

  /** Call `send` with a new id and return the data of the reply with that id. */
  add(send: (id: string) => void): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const id = String(this.#nextId++)
      const timer = setTimeout(() => {
        this.#pending.delete(id)
        reject(OfflineError.timeout(this.#timeoutMs))
      }, this.#timeoutMs)
      this.#pending.set(id, { resolve, reject, timer })
      send(id)
    })
  }

  /** Resolve or reject the request with this id. Return false if no such request is pending. */
  settle(id: string, type: string, data: unknown): boolean {
    const pending = this.#pending.get(id)
    if (!pending) return false
    this.#pending.delete(id)
    clearTimeout(pending.timer)
    const refusal = type === 'error' ? v.safeParse(frameError, data) : null
    if (refusal?.success) {
      const { status, title, detail } = refusal.output
      pending.reject(new ProblemError(status, title, detail))
    } else pending.resolve(data)
    return true
  }

  rejectAll(error: Error): void {
    for (const { timer, reject } of this.#pending.values()) {
      clearTimeout(timer)
      reject(error)
    }
    this.#pending.clear()
  }
}
