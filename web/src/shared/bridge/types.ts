/** The public types of the bridge: events, options and requests. */
import type * as v from 'valibot'
import type { Backoff } from './backoff'
import type { Waiting } from './queue'
import type * as schema from './schema'

export type Topic = 'run_progress' | 'coverage_changed' | 'failure_added'

/** `offline`: the connection is lost and the bridge retries with a growing delay. */
export type ConnectionState = 'idle' | 'connecting' | 'connected' | 'offline' | 'closed'

export interface Connection {
  readonly state: ConnectionState
  readonly clientId: string | null
  /** Attempts since the connection was lost. */
  readonly attempt: number
  /** Time of the next attempt in milliseconds since 1970, or null if none is scheduled. */
  readonly retryAt: number | null
  readonly waiting: readonly Waiting[]
  /** Names of the connected hosts. */
  readonly hosts: readonly string[]
}

/** The number of clients that received an action. */
export interface Delivery {
  /** All other clients, including the hosts. */
  readonly clients: number
  /** Clients with the role `host`. Equals `clients` if the server does not report roles. */
  readonly hosts: number
}

/** A host executes actions. A studio sends actions and receives the list of hosts. */
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

export type WebSocketConstructor = new (url: string) => WebSocket

export interface BridgeOptions {
  /** Origin of the server. The default is the origin of the page. */
  baseUrl?: string
  apiKey?: string | null
  /** Role of this client. The default is no role. */
  role?: Role
  /** Name of a host. */
  name?: string
  fetch?: typeof fetch
  /** WebSocket class. The default is the one of the platform. */
  WebSocket?: WebSocketConstructor
  backoff?: Partial<Backoff>
  /** A request without a response fails after this time. */
  timeoutMs?: number
  /** Maximum number of requests that wait for the connection. */
  queueLimit?: number
}

export interface CallOptions {
  signal?: AbortSignal
  /** Whether to wait for a lost connection (the default) or to fail immediately. */
  queue?: boolean
  /** Label of the request in the queue. */
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

/** What a change of the model makes different; what is left out stays as it is. */
export interface ModelChangeRequest {
  model?: string
  columnType?: 'vector' | 'halfvec'
  passages?: 'auto' | 'paragraphs' | 'markdown' | 'sentences' | 'tokens' | 'none'
  /** Pay for the vectors. */
  yes?: boolean
}

export type ModelChangeStep = 'cutover' | 'rollback' | 'retire' | 'cancel'
