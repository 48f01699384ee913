/**
 * The WebSocket of a bridge: it reconnects, detects a dead peer and matches replies to requests.
 */
import * as v from 'valibot'
import { type Backoff, delayOf } from './backoff'
import { fromWire, toWire } from './casing'
import type { Emitter } from './emitter'
import { BridgeError, OfflineError } from './errors'
import { parsed } from './parse'
import { PendingReplies } from './replies'
import * as schema from './schema'
import { TopicCounts } from './topics'
import type { BridgeEvents, ConnectionState, Role, Topic, WebSocketConstructor } from './types'

export interface SocketOptions {
  readonly url: string
  readonly WebSocket: WebSocketConstructor | undefined
  readonly backoff: Backoff
  readonly timeoutMs: number
  readonly role: Role | undefined
  readonly name: string
  readonly apiKey: () => string | null
  readonly emitter: Emitter<BridgeEvents>
  /** Called when the state, the hosts or the client id changes. */
  readonly onChange: () => void
  /** Called after each successful connect, when the topics are subscribed again. */
  readonly onConnected: () => void
}

interface Frame {
  type: string
  data: unknown
  id?: string | number
}

const CONNECT_TIMEOUT_MS = 8_000
const DEFAULT_HEARTBEAT_MS = 15_000
/** A connection is dead after this many heartbeats without a frame. */
const MISSED_HEARTBEATS = 2.5

/** Frame types that become events, with the schema of their data. */
const EVENT_SCHEMAS = {
  server_status: schema.status,
  suggestions: schema.suggestions,
  search_results: schema.searchResults,
  run_progress: schema.runProgress,
  coverage_changed: schema.coverageChanged,
  failure_added: schema.failureAdded,
  action: schema.action,
  error: schema.frameError,
} as const

export class BridgeSocket {
  readonly #options: SocketOptions
  readonly #replies: PendingReplies
  readonly #topics = new TopicCounts()
  #socket: WebSocket | null = null
  #state: ConnectionState = 'idle'
  #clientId: string | null = null
  #hosts: readonly string[] = []
  #attempt = 0
  #retryAt: number | null = null
  #retryTimer: ReturnType<typeof setTimeout> | undefined
  #watchdog: ReturnType<typeof setTimeout> | undefined
  #heartbeatMs = DEFAULT_HEARTBEAT_MS
  #everConnected = false

  constructor(options: SocketOptions) {
    this.#options = options
    this.#replies = new PendingReplies(options.timeoutMs)
  }

  get state(): ConnectionState {
    return this.#state
  }

  get info() {
    return {
      state: this.#state,
      clientId: this.#clientId,
      attempt: this.#attempt,
      retryAt: this.#retryAt,
      hosts: this.#hosts,
    }
  }

  /** Open the socket and keep it open. While offline, retry immediately. */
  connect(): void {
    if (this.#state === 'connecting' || this.#state === 'connected') return
    if (this.#socket) return // an attempt is running
    this.#cancelRetry()
    if (this.#state !== 'offline') this.#setState('connecting')
    this.#open()
  }

  /** Close the socket and stop reconnecting. */
  close(): void {
    this.#cancelRetry()
    const socket = this.#socket
    this.#detach(socket)
    socket?.close()
    this.#setState('closed')
  }

  /** Send a frame and return the data of its reply. */
  request(type: string, data: object): Promise<unknown> {
    return this.#replies.add((id) => this.#send(type, data, id))
  }

  /** Subscribe, and repeat the subscription after each reconnect until it is released. */
  subscribe(topics: readonly Topic[]): () => void {
    const added = this.#topics.add(topics)
    if (added.length) this.#send('subscribe', { topics: added })
    let released = false
    return () => {
      if (released) return
      released = true
      const removed = this.#topics.remove(topics)
      if (removed.length) this.#send('unsubscribe', { topics: removed })
    }
  }

  /** Send the API key. It is the first frame of a connection, so later frames are authorized. */
  authenticate(): void {
    const key = this.#options.apiKey()
    if (key) this.#socket?.send(JSON.stringify({ type: 'auth', data: { key } }))
  }

  #open(): void {
    const { WebSocket, url } = this.#options
    if (!WebSocket) {
      throw new BridgeError('This platform has no WebSocket. Pass one in the options.')
    }
    const socket = new WebSocket(url)
    this.#socket = socket
    this.#restartWatchdog(CONNECT_TIMEOUT_MS)
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#receive(event.data)
    }
    socket.onclose = (event) => this.#onLost(socket, event.reason || `closed (${event.code})`)
    socket.onerror = () => {} // a close event follows
  }

  /** Stop using a socket: ignore its later events and fail its pending requests. */
  #detach(socket: WebSocket | null): void {
    if (socket !== this.#socket) return
    clearTimeout(this.#watchdog)
    this.#socket = null
    this.#clientId = null
    this.#hosts = []
    const message = 'The connection was lost before the response arrived.'
    this.#replies.rejectAll(new OfflineError(message, true))
  }

  #onLost(socket: WebSocket, reason: string): void {
    if (socket !== this.#socket) return
    this.#detach(socket)
    if (this.#state === 'closed') return
    const wasOffline = this.#state === 'offline'
    const delay = delayOf(this.#attempt, this.#options.backoff)
    this.#attempt += 1
    this.#retryAt = Date.now() + delay
    this.#retryTimer = setTimeout(() => this.connect(), delay)
    this.#setState('offline')
    if (!wasOffline) this.#options.emitter.emit('disconnected', { reason, retryInMs: delay })
  }

  /** Drop the socket after `ms` without a frame: TCP alone does not report a vanished peer. */
  #restartWatchdog(ms: number): void {
    clearTimeout(this.#watchdog)
    const socket = this.#socket
    this.#watchdog = setTimeout(() => {
      if (!socket || socket !== this.#socket) return
      this.#onLost(socket, 'silent')
      socket.close()
    }, ms)
  }

  #receive(text: unknown): void {
    this.#restartWatchdog(this.#heartbeatMs * MISSED_HEARTBEATS)
    let frame: Frame
    try {
      frame = JSON.parse(String(text))
    } catch {
      return
    }
    const data = fromWire(frame.data)
    if (frame.type === 'connected') this.#onConnected(data)
    else this.#dispatch(frame, data)
  }

  #onConnected(data: unknown): void {
    const hello = parsed(schema.connected, data, 'connected')
    const { emitter, onConnected } = this.#options
    const attempts = this.#attempt
    this.#clientId = hello.clientId
    this.#heartbeatMs = hello.heartbeatSeconds * 1000
    this.#restartWatchdog(this.#heartbeatMs * MISSED_HEARTBEATS)
    this.#attempt = 0
    this.#retryAt = null
    this.authenticate()
    const isReconnect = this.#everConnected
    this.#everConnected = true
    this.#setState('connected')
    this.#sendHello()
    const topics = this.#topics.active
    if (topics.length) this.#send('subscribe', { topics })
    emitter.emit('connected', hello)
    if (isReconnect) emitter.emit('reconnected', { clientId: hello.clientId, attempts })
    onConnected()
  }

  #dispatch(frame: Frame, data: unknown): void {
    const { type, id } = frame
    const isReply = id !== undefined && this.#replies.settle(String(id), type, data)
    if (type === 'authenticated') {
      this.#sendHello() // without the key, the server may have refused the role
      this.#options.emitter.emit('authenticated', {})
    }
    if (type === 'hosts_changed' || type === 'welcome') this.#setHosts(data)
    if (isReply && type === 'error') return
    this.#emitEvent(type, data)
  }

  /** Emit the event of a frame. Drop frames of an unknown type or with invalid data. */
  #emitEvent(type: string, data: unknown): void {
    const eventSchema = EVENT_SCHEMAS[type as keyof typeof EVENT_SCHEMAS]
    if (!eventSchema) return
    const result = v.safeParse(eventSchema, data)
    if (!result.success) return
    const event = type === 'suggestions' ? 'suggestion_received' : type
    this.#options.emitter.emit(event as keyof BridgeEvents, result.output as never)
  }

  /** Send a frame if connected. */
  #send(type: string, data: object, id?: string): void {
    if (this.#state !== 'connected' || !this.#socket) return
    this.#socket.send(JSON.stringify({ type, data: toWire(data), ...(id && { id }) }))
  }

  /** Announce the role. A server without roles replies with an error, which is ignored. */
  #sendHello(): void {
    const { role, name } = this.#options
    if (role) this.request('hello', { role, name }).catch(() => {})
  }

  #setHosts(data: unknown): void {
    const result = v.safeParse(schema.hosts, data)
    if (!result.success) return
    this.#hosts = result.output.hosts
    this.#options.onChange()
    this.#options.emitter.emit('hosts_changed', result.output)
  }

  #setState(state: ConnectionState): void {
    this.#state = state
    this.#options.onChange()
  }

  #cancelRetry(): void {
    clearTimeout(this.#retryTimer)
    this.#retryAt = null
  }
}
