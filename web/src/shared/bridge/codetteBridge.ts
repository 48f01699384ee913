/**
 * The client of a Backline server for any front end: its HTTP API and its WebSocket.
 *
 * It depends on no framework. Responses are validated and camelCased, except for the keys inside
 * `parameters`, `row`, `facets` and `where`. While a lost connection is retried, requests wait in a
 * queue and are sent on reconnect. A request that may have reached the server is never sent again.
 */
import type * as v from 'valibot'
import type { Backoff } from './backoff'
import { Emitter } from './emitter'
import { OfflineError } from './errors'
import { HttpClient, postOf, withQuery } from './http'
import { parsed } from './parse'
import { RequestQueue } from './queue'
import * as schema from './schema'
import { BridgeSocket } from './socket'
import type {
  BridgeEvents,
  BridgeOptions,
  CallOptions,
  Connection,
  ConnectionState,
  Delivery,
  ModelChangeRequest,
  ModelChangeStep,
  SearchRequest,
  SentAction,
  SuggestRequest,
  Topic,
} from './types'

export * from './errors'
export type { Waiting } from './queue'
export type * from './schema'
export type * from './types'

const BACKOFF: Backoff = { firstMs: 400, mostMs: 15_000 }
const TIMEOUT_MS = 30_000
const QUEUE_LIMIT = 100

const evaluationPath = (collection: string) =>
  `/api/collections/${encodeURIComponent(collection)}/evaluation`

const modelChangePath = (collection: string) =>
  `/api/collections/${encodeURIComponent(collection)}/model-change`

export class CodetteBridge {
  readonly #emitter = new Emitter<BridgeEvents>()
  readonly #http: HttpClient
  readonly #socket: BridgeSocket
  readonly #queue: RequestQueue
  #apiKey: string | null

  constructor(options: BridgeOptions = {}) {
    const pageUrl = typeof location === 'undefined' ? 'http://127.0.0.1:8000' : location.origin
    const baseUrl = (options.baseUrl ?? pageUrl).replace(/\/+$/, '')
    const timeoutMs = options.timeoutMs ?? TIMEOUT_MS
    const apiKey = () => this.#apiKey
    this.#apiKey = options.apiKey ?? null
    this.#queue = new RequestQueue(options.queueLimit ?? QUEUE_LIMIT, () => this.#onQueueChange())
    this.#http = new HttpClient({
      baseUrl,
      timeoutMs,
      apiKey,
      fetch: options.fetch ?? globalThis.fetch.bind(globalThis),
    })
    this.#socket = new BridgeSocket({
      url: `${baseUrl.replace(/^http/, 'ws')}/ws`,
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
      backoff: { ...BACKOFF, ...options.backoff },
      timeoutMs,
      role: options.role,
      name: options.name ?? '',
      apiKey,
      emitter: this.#emitter,
      onChange: () => this.#emitConnection(),
      onConnected: () => void this.#queue.flush(() => this.state === 'connected'),
    })
  }

  // --- the API ---

  status(options?: CallOptions): Promise<schema.Status> {
    return this.#get('/api/status', {}, schema.status, options)
  }

  coverage(collection?: string, options?: CallOptions): Promise<schema.Coverages> {
    return this.#get('/api/coverage', { collection }, schema.coverages, options)
  }

  async runs(
    filter: { collection?: string; limit?: number } = {},
    options?: CallOptions,
  ): Promise<schema.Run[]> {
    return (await this.#get('/api/runs', filter, schema.runs, options)).runs
  }

  async run(id: number, options?: CallOptions): Promise<schema.Run> {
    return (await this.#get(`/api/runs/${id}`, {}, schema.oneRun, options)).run
  }

  async startRun(
    request: { collection?: string; batchSize?: number; limit?: number } = {},
    options?: CallOptions,
  ): Promise<schema.Run> {
    return (await this.#post('/api/runs', request, schema.oneRun, 'Start backfill', options)).run
  }

  async cancelRun(id: number, options?: CallOptions): Promise<schema.Run> {
    const path = `/api/runs/${id}/cancel`
    return (await this.#post(path, {}, schema.oneRun, `Cancel backfill ${id}`, options)).run
  }

  failures(
    filter: { collection?: string; limit?: number; after?: string } = {},
    options?: CallOptions,
  ): Promise<schema.Failures> {
    return this.#get('/api/failures', filter, schema.failures, options)
  }

  async retryFailures(
    filter: { collection?: string; keys?: readonly string[] } = {},
    options?: CallOptions,
  ): Promise<number> {
    const label = filter.keys ? 'Retry dead letters' : 'Retry all dead letters'
    return (await this.#post('/api/failures/retry', filter, schema.retried, label, options)).retried
  }

  /** The latest comparison of a collection with the one that is to replace it. */
  evaluation(collection: string, options?: CallOptions): Promise<schema.LatestEvaluation> {
    return this.#get(evaluationPath(collection), {}, schema.latestEvaluation, options)
  }

  /** Start a comparison on the server; `queries` are by default those that were asked last. */
  startEvaluation(
    collection: string,
    request: { candidate?: string; queries?: readonly string[]; partial?: boolean } = {},
    options?: CallOptions,
  ): Promise<schema.LatestEvaluation> {
    const path = evaluationPath(collection)
    return this.#post(path, request, schema.latestEvaluation, 'Compare collections', options)
  }

  /** The open change of the model of a collection, or the last one. */
  modelChange(collection: string, options?: CallOptions): Promise<schema.ModelChangeStatus> {
    return this.#get(modelChangePath(collection), {}, schema.modelChangeStatus, options)
  }

  /** What a change of the model will cost. Changes nothing. */
  planModelChange(
    collection: string,
    request: ModelChangeRequest,
    options?: CallOptions,
  ): Promise<schema.ModelChangePlan> {
    const path = `${modelChangePath(collection)}/plan`
    return this.#post(path, request, schema.modelChangePlan, 'Plan change of model', options)
  }

  /** Begin a change of the model, or go on with the open one. */
  beginModelChange(
    collection: string,
    request: ModelChangeRequest = {},
    options?: CallOptions,
  ): Promise<schema.ModelChangeStatus> {
    const path = modelChangePath(collection)
    return this.#post(path, request, schema.modelChangeStatus, 'Change model', options)
  }

  stepModelChange(
    collection: string,
    step: ModelChangeStep,
    request: { freeze?: boolean } = {},
    options?: CallOptions,
  ): Promise<schema.ModelChangeStatus> {
    const path = `${modelChangePath(collection)}/${step}`
    return this.#post(path, request, schema.modelChangeStatus, `Model: ${step}`, options)
  }

  search(request: SearchRequest, options?: CallOptions): Promise<schema.SearchResults> {
    return this.#post('/api/search', request, schema.searchResults, 'Search', options)
  }

  async suggest(
    request: SuggestRequest,
    options?: CallOptions,
  ): Promise<v.InferOutput<typeof schema.suggestions>> {
    const result = await this.#post('/api/suggest', request, schema.suggestions, 'Suggest', options)
    this.#emitter.emit('suggestion_received', result)
    return result
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

  /** Broadcast an action to all other clients of the server, including the hosts. */
  async sendAction(action: SentAction, options?: CallOptions): Promise<Delivery> {
    const send = () => this.#socket.request('action', action)
    const mustWait = this.state !== 'connected'
    const ack = await this.#sendOrQueue(send, `Send ${action.name}`, mustWait, options)
    const { delivered, hosts = delivered } = parsed(schema.actionAck, ack, 'action_ack')
    return { clients: delivered, hosts }
  }

  // --- the connection ---

  get connection(): Connection {
    return { ...this.#socket.info, waiting: this.#queue.waiting }
  }

  get state(): ConnectionState {
    return this.#socket.state
  }

  on<K extends keyof BridgeEvents>(event: K, handler: (data: BridgeEvents[K]) => void): () => void {
    return this.#emitter.on(event, handler)
  }

  /** Open the socket and keep it open. While offline, retry immediately. */
  connect(): void {
    this.#socket.connect()
  }

  /** Close the connection for good and reject the queued requests. */
  close(): void {
    this.#queue.clear(new OfflineError('The connection was closed.', false))
    this.#socket.close()
  }

  /** Subscribe to topics, also after each reconnect, until the returned function is called. */
  subscribe(topics: readonly Topic[]): () => void {
    return this.#socket.subscribe(topics)
  }

  /** Set the API key for requests that need one. Null removes it. */
  setApiKey(key: string | null): void {
    this.#apiKey = key || null
    if (this.state === 'connected') this.#socket.authenticate()
  }

  /** Remove a request from the queue. Return false if it is not queued. */
  cancelWaiting(id: number): boolean {
    return this.#queue.remove(id)
  }

  // --- requests ---

  #get<S extends v.GenericSchema>(
    path: string,
    query: Record<string, unknown>,
    response: S,
    options?: CallOptions,
  ): Promise<v.InferOutput<S>> {
    const address = withQuery(path, query)
    return this.#call(address, { method: 'GET' }, response, `Read ${path}`, options)
  }

  #post<S extends v.GenericSchema>(
    path: string,
    body: object,
    response: S,
    label: string,
    options?: CallOptions,
  ): Promise<v.InferOutput<S>> {
    return this.#call(path, postOf(body), response, label, options)
  }

  async #call<S extends v.GenericSchema>(
    address: string,
    init: RequestInit,
    response: S,
    label: string,
    options?: CallOptions,
  ): Promise<v.InferOutput<S>> {
    const send = () => this.#http.send(address, init, options?.signal)
    const data = await this.#sendOrQueue(send, label, this.state === 'offline', options)
    return parsed(response, data, address)
  }

  /** Send immediately, or queue the request until the connection returns. */
  async #sendOrQueue(
    send: () => Promise<unknown>,
    label: string,
    mustWait: boolean,
    options: CallOptions = {},
  ): Promise<unknown> {
    options.signal?.throwIfAborted()
    if (!mustWait) return send()
    if (this.state === 'closed' || this.state === 'idle') {
      throw new OfflineError('Not connected. Call connect() first.', false)
    }
    if (options.queue === false) throw OfflineError.unreachable(false)
    return this.#queue.add(options.label ?? label, send, options.signal)
  }

  #emitConnection(): void {
    this.#emitter.emit('connection_changed', this.connection)
  }

  #onQueueChange(): void {
    const { waiting } = this.#queue
    this.#emitter.emit('queue_updated', { length: waiting.length, waiting })
    this.#emitConnection()
  }
}
