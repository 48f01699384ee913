/**
 * The client of a Backline server: its HTTP API and its WebSocket, for any studio front end.
 *
 * It knows no framework. Answers are checked and camelCased; the keys inside `parameters`, `row`,
 * `facets` and `where` stay as they are. While a connection that once was is lost, requests wait and
 * are sent when it is back, each at most once: what may have reached the server is never sent again.
 */
import * as v from 'valibot'
import { type Backoff, delayOf } from './backoff'
import { fromWire, toWire } from './casing'
import { Emitter } from './emitter'
import { BridgeError, type FieldError, OfflineError, ProblemError, ProtocolError } from './errors'
import { RequestQueue, type Waiting } from './queue'
import * as schema from './schema'

export * from './errors'
export type { Waiting } from './queue'
export type * from './schema'

export type Topic = 'run_progress' | 'coverage_changed' | 'failure_added'

/** `offline`: the connection is lost, and is tried again by itself. */
export type ConnectionState = 'idle' | 'connecting' | 'connected' | 'offline' | 'closed'

export interface Connection {
  readonly state: ConnectionState
  readonly clientId: string | null
  /** Tries since the connection was lost. */
  readonly attempt: number
  /** When the next try is due, in milliseconds since 1970; null where none is planned. */
  readonly retryAt: number | null
  readonly waiting: readonly Waiting[]
  /** Names of the hosts that are connected now. */
  readonly hosts: readonly string[]
}

/** Who was sent an action. */
export interface Delivery {
  /** All other clients, the hosts among them. */
  readonly clients: number
  /** Those that do what actions say; all clients where the server cannot tell. */
  readonly hosts: number
}

/** A host does what actions say; a studio sends them, and is told which hosts there are. */
export type Role = 'host' | 'studio'

export interface BridgeEvents {
  connected: v.InferOutput<typeof schema.connected>
  disconnected: { reason: string; retryInMs: number | null }
  reconnected: { clientId: string; attempts: number }
  connection_changed: Connection
  queue_updated: { length: number; waiting: readonly Waiting[] }
  server_status: schema.Status
  suggestion_received: v.InferOutput<typeof schema.suggestions>
  search_results: schema.SearchResults
  run_progress: v.InferOutput<typeof schema.runProgress>
  coverage_changed: v.InferOutput<typeof schema.coverageChanged>
  failure_added: v.InferOutput<typeof schema.failureAdded>
  action: schema.ReceivedAction
  hosts_changed: v.InferOutput<typeof schema.hosts>
  authenticated: Record<string, never>
  error: v.InferOutput<typeof schema.frameError>
}

export interface BridgeOptions {
  /** Where the server is; default: where the page came from. */
  baseUrl?: string
  apiKey?: string | null
  /** What this client is; default: it does not say, and counts as neither. */
  role?: Role
  /** What a host is called. */
  name?: string
  fetch?: typeof fetch
  /** Default: the platform's own. */
  WebSocket?: new (
    url: string,
  ) => WebSocket
  backoff?: Partial<Backoff>
  /** A request without an answer after this is given up. */
  timeoutMs?: number
  /** Requests that may wait for the connection. */
  queueLimit?: number
}

export interface CallOptions {
  signal?: AbortSignal
  /** Whether to wait for a lost connection (the default) or to fail at once. */
  queue?: boolean
  /** What it is called while it waits. */
  label?: string
}

export interface SearchRequest {
  query: string
  collection?: string
  mode?: schema.Mode
  limit?: number
  offset?: number
  where?: string | Record<string, unknown>
  weight?: number
}

export interface SuggestRequest {
  prompt?: string
  context?: { type?: string; mood?: string; genre?: string; bpm?: number; trackType?: string }
  limit?: number
  collection?: string
}

export interface SentAction {
  actionId: number
  name: string
  parameters: Record<string, unknown>
}

interface Asked {
  resolve: (data: unknown) => void
  reject: (error: Error) => void
  timer: ReturnType<typeof setTimeout>
}

interface Frame {
  type: string
  data: unknown
  id?: string | number
}

const BACKOFF: Backoff = { firstMs: 400, mostMs: 15_000 }
const TIMEOUT_MS = 30_000
const QUEUE_LIMIT = 100
const CONNECT_MS = 8_000

/** Frames that are told to everybody who listens, with their schemas. */
const TOLD = {
  server_status: schema.status,
  suggestions: schema.suggestions,
  search_results: schema.searchResults,
  run_progress: schema.runProgress,
  coverage_changed: schema.coverageChanged,
  failure_added: schema.failureAdded,
  action: schema.action,
  error: schema.frameError,
} as const

export class CodetteBridge {
  readonly #base: string
  readonly #fetch: typeof fetch
  readonly #Socket: (new (url: string) => WebSocket) | undefined
  readonly #backoff: Backoff
  readonly #timeoutMs: number
  readonly #role: Role | undefined
  readonly #name: string
  readonly #emitter = new Emitter<BridgeEvents>()
  readonly #queue: RequestQueue
  readonly #asked = new Map<string, Asked>()
  readonly #topics = new Map<Topic, number>()
  #key: string | null
  #socket: WebSocket | null = null
  #state: ConnectionState = 'idle'
  #clientId: string | null = null
  #hosts: readonly string[] = []
  #attempt = 0
  #retryAt: number | null = null
  #retry: ReturnType<typeof setTimeout> | undefined
  #watchdog: ReturnType<typeof setTimeout> | undefined
  #heartbeatMs = 15_000
  #everConnected = false
  #nextId = 1

  constructor(options: BridgeOptions = {}) {
    const here = typeof location === 'undefined' ? 'http://127.0.0.1:8000' : location.origin
    this.#base = (options.baseUrl ?? here).replace(/\/+$/, '')
    this.#key = options.apiKey ?? null
    this.#role = options.role
    this.#name = options.name ?? ''
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis)
    this.#Socket = options.WebSocket ?? globalThis.WebSocket
    this.#backoff = { ...BACKOFF, ...options.backoff }
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS
    this.#queue = new RequestQueue(options.queueLimit ?? QUEUE_LIMIT, () => this.#queueChanged())
  }

  // --- the API ---

  status(options?: CallOptions): Promise<schema.Status> {
    return this.#get('/api/status', {}, schema.status, options)
  }

  coverage(collection?: string, options?: CallOptions): Promise<schema.Coverages> {
    return this.#get('/api/coverage', { collection }, schema.coverages, options)
  }

  async runs(
    wanted: { collection?: string; limit?: number } = {},
    options?: CallOptions,
  ): Promise<schema.Run[]> {
    return (await this.#get('/api/runs', wanted, schema.runs, options)).runs
  }

  async run(id: number, options?: CallOptions): Promise<schema.Run> {
    return (await this.#get(`/api/runs/${id}`, {}, schema.oneRun, options)).run
  }

  async startRun(
    wanted: { collection?: string; batchSize?: number; limit?: number } = {},
    options?: CallOptions,
  ): Promise<schema.Run> {
    return (await this.#post('/api/runs', wanted, schema.oneRun, 'Start a backfill', options)).run
  }

  async cancelRun(id: number, options?: CallOptions): Promise<schema.Run> {
    const path = `/api/runs/${id}/cancel`
    return (await this.#post(path, {}, schema.oneRun, `Cancel backfill ${id}`, options)).run
  }

  failures(
    wanted: { collection?: string; limit?: number; after?: string } = {},
    options?: CallOptions,
  ): Promise<schema.Failures> {
    return this.#get('/api/failures', wanted, schema.failures, options)
  }

  async retryFailures(
    wanted: { collection?: string; keys?: readonly string[] } = {},
    options?: CallOptions,
  ): Promise<number> {
    const label = wanted.keys ? 'Retry dead letters' : 'Retry all dead letters'
    return (await this.#post('/api/failures/retry', wanted, schema.retried, label, options)).retried
  }

  search(request: SearchRequest, options?: CallOptions): Promise<schema.SearchResults> {
    return this.#post('/api/search', request, schema.searchResults, 'Search', options)
  }

  async suggest(
    request: SuggestRequest,
    options?: CallOptions,
  ): Promise<v.InferOutput<typeof schema.suggestions>> {
    const found = await this.#post('/api/suggest', request, schema.suggestions, 'Suggest', options)
    this.#emitter.emit('suggestion_received', found)
    return found
  }

  facets(collection?: string, options?: CallOptions): Promise<schema.Facets> {
    return this.#get('/api/facets', { collection }, schema.facets, options)
  }

  map(collection?: string, limit?: number, options?: CallOptions): Promise<schema.CollectionMap> {
    return this.#get('/api/map', { collection, limit }, schema.collectionMap, options)
  }

  mapQuery(
    q: string,
    collection?: string,
    limit?: number,
    options?: CallOptions,
  ): Promise<schema.Place> {
    return this.#get('/api/map/query', { q, collection, limit }, schema.place, options)
  }

  async actions(options?: CallOptions): Promise<schema.ActionEntry[]> {
    return (await this.#get('/api/actions', {}, schema.actions, options)).actions
  }

  /** Ask all other clients of the server, hosts among them, to do something. */
  async sendAction(action: SentAction, options?: CallOptions): Promise<Delivery> {
    const work = () => this.#ask('action', action)
    const ack = await this.#whenOnline(`Send ${action.name}`, work, options, true)
    const { delivered, hosts = delivered } = parsed(schema.actionAck, ack, 'action_ack')
    return { clients: delivered, hosts }
  }

  // --- the connection ---

  get connection(): Connection {
    return {
      state: this.#state,
      clientId: this.#clientId,
      attempt: this.#attempt,
      retryAt: this.#retryAt,
      waiting: this.#queue.waiting,
      hosts: this.#hosts,
    }
  }

  get state(): ConnectionState {
    return this.#state
  }

  on<K extends keyof BridgeEvents>(event: K, handler: (data: BridgeEvents[K]) => void): () => void {
    return this.#emitter.on(event, handler)
  }

  /** Open the socket and keep it open; calling it while offline tries at once. */
  connect(): void {
    if (this.#state === 'connecting' || this.#state === 'connected') return
    if (this.#socket) return // a try is under way
    clearTimeout(this.#retry)
    this.#retryAt = null
    if (this.#state !== 'offline') this.#become('connecting')
    this.#open()
  }

  /** Close for good; what waits is refused. */
  close(): void {
    clearTimeout(this.#retry)
    this.#retryAt = null
    const socket = this.#socket
    this.#let(socket)
    socket?.close()
    this.#queue.clear(new OfflineError('The connection was closed.', false))
    this.#become('closed')
  }

  /** Hear of a topic, also after every reconnect, until the returned function is called. */
  subscribe(topics: readonly Topic[]): () => void {
    const fresh = topics.filter((topic) => !this.#topics.has(topic))
    for (const topic of topics) this.#topics.set(topic, (this.#topics.get(topic) ?? 0) + 1)
    if (fresh.length) this.#tell('subscribe', { topics: fresh })
    let over = false
    return () => {
      if (over) return
      over = true
      this.#unsubscribe(topics)
    }
  }

  /** The key for what needs one; null forgets it. */
  setApiKey(key: string | null): void {
    this.#key = key || null
    if (this.#key && this.#state === 'connected') this.#authenticate()
  }

  /** Take a request back that waits for the connection. */
  cancelWaiting(id: number): boolean {
    return this.#queue.remove(id)
  }

  // --- HTTP ---

  #get<S extends v.GenericSchema>(
    path: string,
    query: Record<string, unknown>,
    shape: S,
    options?: CallOptions,
  ): Promise<v.InferOutput<S>> {
    const asked = new URLSearchParams()
    for (const [key, value] of Object.entries(query)) {
      if (value !== undefined && value !== '') asked.set(key, String(value))
    }
    const address = asked.size ? `${path}?${asked}` : path
    return this.#call(address, { method: 'GET' }, shape, `Read ${path}`, options)
  }

  #post<S extends v.GenericSchema>(
    path: string,
    body: object,
    shape: S,
    label: string,
    options?: CallOptions,
  ): Promise<v.InferOutput<S>> {
    const init = {
      method: 'POST',
      body: JSON.stringify(toWire(body)),
      headers: { 'content-type': 'application/json' },
    }
    return this.#call(path, init, shape, label, options)
  }

  async #call<S extends v.GenericSchema>(
    address: string,
    init: RequestInit,
    shape: S,
    label: string,
    options?: CallOptions,
  ): Promise<v.InferOutput<S>> {
    const work = () => this.#fetched(address, init, options?.signal)
    return parsed(shape, await this.#whenOnline(label, work, options, false), address)
  }

  /** Do it now, or when the connection is back. `socket`: it cannot go without the socket. */
  async #whenOnline(
    label: string,
    work: () => Promise<unknown>,
    options: CallOptions | undefined,
    socket: boolean,
  ): Promise<unknown> {
    options?.signal?.throwIfAborted()
    const lost = socket ? this.#state !== 'connected' : this.#state === 'offline'
    if (!lost) return work()
    if (this.#state === 'closed' || this.#state === 'idle') {
      throw new OfflineError('There is no connection. Call connect() first.', false)
    }
    if (options?.queue === false) throw new OfflineError('The server is not reached.', false)
    return this.#queue.add(options?.label ?? label, work, options?.signal)
  }

  async #fetched(address: string, init: RequestInit, signal?: AbortSignal): Promise<unknown> {
    const limit = AbortSignal.timeout(this.#timeoutMs)
    const headers = new Headers(init.headers)
    headers.set('accept', 'application/json')
    if (this.#key) headers.set('authorization', `Bearer ${this.#key}`)
    let response: Response
    let text: string
    try {
      response = await this.#fetch(this.#base + address, {
        ...init,
        headers,
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      })
      text = await response.text()
    } catch (error) {
      if (signal?.aborted) throw error
      if (limit.aborted)
        throw new OfflineError(`No answer within ${this.#timeoutMs / 1000} seconds.`, true)
      throw new OfflineError('The server is not reached.', true)
    }
    return body(response, text)
  }

  // --- WebSocket ---

  #open(): void {
    if (!this.#Socket)
      throw new BridgeError('This platform has no WebSocket. Give one as an option.')
    const socket = new this.#Socket(`${this.#base.replace(/^http/, 'ws')}/ws`)
    this.#socket = socket
    this.#watch(CONNECT_MS)
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#hear(event.data)
    }
    socket.onclose = (event) => this.#lost(socket, event.reason || `closed (${event.code})`)
    socket.onerror = () => {} // a close follows
  }

  /** Forget a socket: whatever it still says is not heard. */
  #let(socket: WebSocket | null): void {
    if (socket !== this.#socket) return
    clearTimeout(this.#watchdog)
    this.#socket = null
    this.#clientId = null
    this.#hosts = []
    const lost = new OfflineError('The connection was lost before the answer came.', true)
    for (const asked of this.#asked.values()) {
      clearTimeout(asked.timer)
      asked.reject(lost)
    }
    this.#asked.clear()
  }

  #lost(socket: WebSocket, reason: string): void {
    if (socket !== this.#socket) return
    this.#let(socket)
    if (this.#state === 'closed') return
    const wait = delayOf(this.#attempt, this.#backoff)
    const before = this.#state
    this.#attempt += 1
    this.#retryAt = Date.now() + wait
    this.#retry = setTimeout(() => this.connect(), wait)
    this.#become('offline')
    if (before !== 'offline') this.#emitter.emit('disconnected', { reason, retryInMs: wait })
  }

  /** A socket that says nothing for that long is given up: its other end may be gone. */
  #watch(ms: number): void {
    clearTimeout(this.#watchdog)
    const socket = this.#socket
    this.#watchdog = setTimeout(() => {
      if (!socket || socket !== this.#socket) return
      this.#lost(socket, 'silent')
      socket.close()
    }, ms)
  }

  #hear(text: unknown): void {
    this.#watch(this.#heartbeatMs * 2.5)
    let frame: Frame
    try {
      frame = JSON.parse(String(text))
    } catch {
      return
    }
    const data = fromWire(frame.data)
    if (frame.type === 'connected') this.#greeted(data)
    else this.#dispatch(frame, data)
  }

  #greeted(data: unknown): void {
    const hello = parsed(schema.connected, data, 'connected')
    const attempts = this.#attempt
    this.#clientId = hello.clientId
    this.#heartbeatMs = hello.heartbeatSeconds * 1000
    this.#watch(this.#heartbeatMs * 2.5)
    this.#attempt = 0
    this.#retryAt = null
    if (this.#key) this.#authenticate()
    const again = this.#everConnected
    this.#everConnected = true
    this.#become('connected')
    this.#introduce()
    if (this.#topics.size) this.#tell('subscribe', { topics: [...this.#topics.keys()] })
    this.#emitter.emit('connected', hello)
    if (again) this.#emitter.emit('reconnected', { clientId: hello.clientId, attempts })
    void this.#queue.flush(() => this.#state === 'connected')
  }

  #dispatch(frame: Frame, data: unknown): void {
    const asked = frame.id === undefined ? undefined : this.#asked.get(String(frame.id))
    if (asked) this.#answer(String(frame.id), asked, frame.type, data)
    if (frame.type === 'authenticated') {
      this.#introduce() // a host may have been refused before
      this.#emitter.emit('authenticated', {})
    }
    if (frame.type === 'hosts_changed' || frame.type === 'welcome') this.#hostsAre(data)
    const shape = TOLD[frame.type as keyof typeof TOLD]
    if (!shape || (asked && frame.type === 'error')) return
    const found = v.safeParse(shape, data)
    if (!found.success) return
    const event = frame.type === 'suggestions' ? 'suggestion_received' : frame.type
    this.#emitter.emit(event as keyof BridgeEvents, found.output as never)
  }

  #answer(id: string, asked: Asked, type: string, data: unknown): void {
    this.#asked.delete(id)
    clearTimeout(asked.timer)
    const refused = type === 'error' ? v.safeParse(schema.frameError, data) : null
    if (refused?.success) {
      const { status, title, detail } = refused.output
      asked.reject(new ProblemError(status, title, detail))
    } else asked.resolve(data)
  }

  /** Send a frame and wait for the answer that bears its id. */
  #ask(type: string, data: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const id = String(this.#nextId++)
      const timer = setTimeout(() => {
        this.#asked.delete(id)
        reject(new OfflineError(`No answer within ${this.#timeoutMs / 1000} seconds.`, true))
      }, this.#timeoutMs)
      this.#asked.set(id, { resolve, reject, timer })
      this.#tell(type, data, id)
    })
  }

  /** Send a frame, if there is a connection. */
  #tell(type: string, data: object, id?: string): void {
    if (this.#state !== 'connected' || !this.#socket) return
    this.#socket.send(JSON.stringify({ type, data: toWire(data), ...(id && { id }) }))
  }

  /** Say what this client is. A server that does not know of roles refuses, and all else goes on. */
  #introduce(): void {
    if (!this.#role) return
    this.#ask('hello', { role: this.#role, name: this.#name }).catch(() => {})
  }

  #hostsAre(data: unknown): void {
    const found = v.safeParse(schema.hosts, data)
    if (!found.success) return
    this.#hosts = found.output.hosts
    this.#emitter.emit('connection_changed', this.connection)
    this.#emitter.emit('hosts_changed', found.output)
  }

  /** The first frame of a connection: whatever follows is sent after it, and so with the key. */
  #authenticate(): void {
    this.#socket?.send(JSON.stringify({ type: 'auth', data: { key: this.#key } }))
  }

  #unsubscribe(topics: readonly Topic[]): void {
    const ended: Topic[] = []
    for (const topic of topics) {
      const left = (this.#topics.get(topic) ?? 0) - 1
      if (left > 0) this.#topics.set(topic, left)
      else {
        this.#topics.delete(topic)
        ended.push(topic)
      }
    }
    if (ended.length) this.#tell('unsubscribe', { topics: ended })
  }

  #become(state: ConnectionState): void {
    this.#state = state
    this.#emitter.emit('connection_changed', this.connection)
  }

  #queueChanged(): void {
    const { waiting } = this.#queue
    this.#emitter.emit('queue_updated', { length: waiting.length, waiting })
    this.#emitter.emit('connection_changed', this.connection)
  }
}

function parsed<S extends v.GenericSchema>(
  shape: S,
  data: unknown,
  what: string,
): v.InferOutput<S> {
  const found = v.safeParse(shape, data)
  if (found.success) return found.output
  const [issue] = found.issues
  const where = v.getDotPath(issue)
  throw new ProtocolError(
    `The answer to ${what} is not as this studio understands it: ${where ? `${where}: ` : ''}${issue.message}`,
  )
}

function body(response: Response, text: string): unknown {
  let data: unknown
  try {
    data = JSON.parse(text)
  } catch {
    data = null
  }
  if (response.ok && data !== null) return fromWire(data)
  const problem = (data ?? {}) as {
    title?: string
    detail?: string
    request_id?: string
    errors?: FieldError[]
  }
  const title = problem.title ?? response.statusText ?? 'Error'
  const detail = problem.detail ?? `The server answered ${response.status} without an explanation.`
  throw new ProblemError(
    response.status,
    title,
    detail,
    problem.request_id ?? null,
    problem.errors ?? [],
  )
}
