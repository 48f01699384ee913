/** HTTP requests to a Backline server: authorization, timeout and error mapping. */
import { fromWire, toWire } from './casing'
import { type FieldError, OfflineError, ProblemError } from './errors'

export interface HttpOptions {
  readonly baseUrl: string
  readonly fetch: typeof fetch
  readonly timeoutMs: number
  readonly apiKey: () => string | null
}

export class HttpClient {
  readonly #options: HttpOptions

  constructor(options: HttpOptions) {
    this.#options = options
  }

  /**
   * Send a request and return its decoded body.
   *
   * Throw ProblemError for an error status and OfflineError if no response arrives in time.
   */
  async send(address: string, init: RequestInit, signal?: AbortSignal): Promise<unknown> {
    const { baseUrl, fetch, timeoutMs } = this.#options
    const timeout = AbortSignal.timeout(timeoutMs)
    let response: Response
    let text: string
    try {
      response = await fetch(baseUrl + address, {
        ...init,
        headers: this.#headers(init),
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      })
      text = await response.text()
    } catch (error) {
      if (signal?.aborted) throw error
      throw timeout.aborted ? OfflineError.timeout(timeoutMs) : OfflineError.unreachable(true)
    }
    return decoded(response, text)
  }

  #headers(init: RequestInit): Headers {
    const headers = new Headers(init.headers)
    headers.set('accept', 'application/json')
    const key = this.#options.apiKey()
    if (key) headers.set('authorization', `Bearer ${key}`)
    return headers
  }
}

/** Append the query parameters that have a value. */
export function withQuery(path: string, query: Record<string, unknown>): string {
  const parameters = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== '') parameters.set(name, String(value))
  }
  return parameters.size ? `${path}?${parameters}` : path
}

/** A POST request with a JSON body in snake_case. */
export function postOf(body: object): RequestInit {
  return {
    method: 'POST',
    body: JSON.stringify(toWire(body)),
    headers: { 'content-type': 'application/json' },
  }
}

/** The members of an RFC 9457 problem that the bridge reads. */
interface Problem {
  title?: string
  detail?: string
  request_id?: string
  errors?: FieldError[]
}

function decoded(response: Response, text: string): unknown {
  const data = parsedJson(text)
  if (response.ok && data !== null) return fromWire(data)
  const problem = (data ?? {}) as Problem
  throw new ProblemError(
    response.status,
    problem.title ?? response.statusText ?? 'Error',
    problem.detail ?? `The server returned status ${response.status} without details.`,
    problem.request_id ?? null,
    problem.errors ?? [],
  )
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
