import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { WebSocket as NodeWebSocket, WebSocketServer } from 'ws'
import {
  type BridgeEvents,
  type BridgeOptions,
  CodetteBridge,
  OfflineError,
  ProblemError,
  ProtocolError,
} from '@/shared/bridge/codetteBridge'
import { createDatabase, missing, type RunningServer, serve, until } from './server'

const KEY = 'studio-test-key-0123456789'
let server: RunningServer
const bridges: CodetteBridge[] = []

let database: Awaited<ReturnType<typeof createDatabase>>

beforeAll(async () => {
  if (missing) return
  database = await createDatabase()
  server = await serve(database.data)
})
// With SIGTERM, because the last server also stops the embedded Postgres.
afterAll(async () => {
  await server?.stop('SIGTERM')
  database?.remove()
})

if (missing) console.warn(`Skipping the bridge tests: ${missing}`)

function bridge(options: BridgeOptions = {}): CodetteBridge {
  const created = new CodetteBridge({
    baseUrl: server?.url,
    WebSocket: NodeWebSocket as unknown as BridgeOptions['WebSocket'],
    backoff: { firstMs: 40, mostMs: 200 },
    timeoutMs: 60_000,
    ...options,
  })
  bridges.push(created)
  return created
}

function recorded<K extends keyof BridgeEvents>(from: CodetteBridge, event: K): BridgeEvents[K][] {
  const events: BridgeEvents[K][] = []
  from.on(event, (data) => events.push(data))
  return events
}

async function connected(options: BridgeOptions = {}): Promise<CodetteBridge> {
  const connecting = bridge(options)
  connecting.connect()
  await until(() => connecting.state === 'connected', 'connected')
  return connecting
}

/** Wait for a number of clients: those of previous tests may still be connected. */
function clientCount(from: CodetteBridge, count: number): Promise<boolean> {
  return until(async () => (await from.status()).clients === count, `${count} clients`)
}

/**
 * Start runs until `read` returns a truthy value. The server checks the runs twice per second and
 * sends a new subscriber no event for a run that ended before the first check.
 */
function runUntil<T>(from: CodetteBridge, read: () => T): Promise<NonNullable<T>> {
  return until(async () => {
    const [latest] = await from.runs({ limit: 1 })
    if (latest?.state !== 'running' && !read()) {
      await from.startRun({ batchSize: 64 })
      await new Promise((resolve) => setTimeout(resolve, 300))
    }
    return read()
  }, 'the event of a run')
}

describe.skipIf(missing)('bridge and server', () => {
  afterEach(() => {
    for (const open of bridges.splice(0)) open.close()
  })

  describe('HTTP', () => {
    test('status returns the collection and its coverage in camelCase', async () => {
      const { collections, server: info } = await bridge().status()
      expect(info.uptimeSeconds).toBeGreaterThan(0)
      expect(collections[0]).toMatchObject({
        name: 'music_knowledge',
        keyColumns: ['id'],
        model: { dimensions: 384 },
        coverage: { rows: 292, embedded: 292, inFlight: 0, complete: true },
      })
    })

    test('search keeps the keys of a row and of its parameters', async () => {
      const { hits, tookMs } = await bridge().search({ query: 'muddy vocals', limit: 3 })
      expect(hits).toHaveLength(3)
      expect(tookMs).toBeGreaterThan(0)
      expect(hits[0]?.row).toHaveProperty('created_at')
      expect(hits[0]?.row.parameters).toEqual({ q: 1.2, gain_db: -3, frequency_hz: 300 })
      expect(hits[0]?.parts.dense).toBeGreaterThan(0.4)
    })

    test('a comparison is started and read', async () => {
      const name = 'music_knowledge'
      const request = { candidate: name, queries: ['muddy vocals', 'loud kick'] }
      expect((await bridge().startEvaluation(name, request)).running).toBe(true)
      const { evaluation } = await until(async () => {
        const latest = await bridge().evaluation(name)
        return latest.running ? null : latest
      }, 'the comparison to end')
      expect(evaluation).toMatchObject({
        candidate: { collection: name, vectors: 292, complete: true },
        queries: 2,
        modes: [
          { mode: 'semantic', unchanged: 2, rbo: { mean: 1 } },
          { mode: 'hybrid', overlap: { mean: 1, histogram: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2] } },
        ],
      })
    })

    test('a filter on columns restricts a search', async () => {
      const { hits } = await bridge().search({
        query: 'muddy vocals',
        where: { category: 'mixing' },
      })
      expect(hits.length).toBeGreaterThan(0)
      expect(hits.every(({ row }) => row.category === 'mixing')).toBe(true)
    })

    test('suggest sends its context and emits the suggestions', async () => {
      const page = bridge()
      const received = recorded(page, 'suggestion_received')
      const result = await page.suggest({
        prompt: 'my vocals sound muddy',
        context: { trackType: 'vocals', bpm: 120 },
        limit: 2,
      })
      expect(result.suggestions).toHaveLength(2)
      expect(result.suggestions.some(({ reason }) => reason.includes('covers vocals'))).toBe(true)
      expect(received).toEqual([result])
    })

    test('facets, map, query position, actions and failures are parsed', async () => {
      const page = bridge()
      const { facets } = await page.facets()
      expect(facets.category?.find(({ value }) => value === 'sound_design')?.count).toBe(21)
      const map = await page.map(undefined, 100)
      expect([map.keys.length, map.x.length, map.y.length, map.titles.length]).toEqual([
        100, 100, 100, 100,
      ])
      const place = await page.mapQuery('kick', undefined, 100)
      expect(Math.abs(place.x)).toBeLessThanOrEqual(2)
      expect((await page.actions()).find(({ id }) => id === 44300)?.name).toBe('suggestion.apply')
      expect(await page.failures()).toEqual({ failures: [], total: 0, next: null })
      expect(await page.retryFailures()).toBe(0)
    })

    test('an error status is a ProblemError with the server’s explanation', async () => {
      const request = bridge().run(999_999)
      await expect(request).rejects.toBeInstanceOf(ProblemError)
      await expect(request).rejects.toMatchObject({
        status: 404,
        title: 'Not found',
        message: expect.stringContaining('There is no run 999999'),
        requestId: expect.stringMatching(/\w+/),
      })
      await expect(bridge().search({ query: 'x', limit: 100_000 })).rejects.toMatchObject({
        status: 422,
        fields: [{ field: 'body.limit' }],
      })
    })

    test('an invalid response is a ProtocolError that names the member', async () => {
      const other: typeof fetch = async () => Response.json({ runs: [{ id: 'one' }] })
      await expect(bridge({ fetch: other }).runs()).rejects.toThrow(ProtocolError)
      await expect(bridge({ fetch: other }).runs()).rejects.toThrow(/runs\.0\./)
    })

    test('an aborted request rejects with an AbortError', async () => {
      const abort = new AbortController()
      const request = bridge().search({ query: 'kick' }, { signal: abort.signal })
      abort.abort()
      await expect(request).rejects.toMatchObject({ name: 'AbortError' })
    })
  })

  describe('WebSocket', () => {
    test('emits connected and then the status of the server', async () => {
      const page = bridge()
      const hello = recorded(page, 'connected')
      const status = recorded(page, 'server_status')
      page.connect()
      page.connect() // a second call does not open a second socket
      await until(() => status.length, 'server_status')
      expect(hello).toHaveLength(1)
      expect(page.connection.clientId).toBe(hello[0]?.clientId)
      expect(status[0]?.collections[0]?.name).toBe('music_knowledge')
    })

    test('an action reaches the other clients with unchanged parameters', async () => {
      const [host, page] = [await connected(), await connected()]
      await clientCount(page, 2)
      const received = recorded(host, 'action')
      const own = recorded(page, 'action')
      const parameters = { key: 'k', parameters: { gain_db: -3 } }
      const action = { actionId: 44300, name: 'suggestion.apply', parameters }
      expect(await page.sendAction(action)).toEqual({ clients: 1, hosts: 0 })
      await until(() => received.length, 'the action')
      expect(received[0]).toEqual({
        actionId: 44300,
        name: 'suggestion.apply',
        parameters,
        source: page.connection.clientId,
      })
      expect(own).toEqual([])
    })

    test('an action without other clients reports no receivers', async () => {
      const page = await connected()
      await clientCount(page, 1)
      expect(
        await page.sendAction({ actionId: 44300, name: 'suggestion.apply', parameters: {} }),
      ).toEqual({ clients: 0, hosts: 0 })
    })

    test('a studio knows the connected hosts and whether one received an action', async () => {
      const page = await connected({ role: 'studio' })
      await until(
        async () => (await page.status()).hosts.length === 0,
        'no host of a previous test',
      )
      const changes = recorded(page, 'hosts_changed')
      const host = await connected({ role: 'host', name: 'Plugin' })
      await until(() => page.connection.hosts.length, 'the host in the list')
      expect(page.connection.hosts).toEqual(['Plugin'])
      const other = await connected({ role: 'studio' })
      await until(() => other.connection.hosts.length, 'the host in the list of a later client')
      const action = { actionId: 44300, name: 'suggestion.apply', parameters: {} }
      expect(await page.sendAction(action)).toMatchObject({ hosts: 1 })
      host.close()
      await until(() => page.connection.hosts.length === 0, 'the host removed from the list')
      expect(await page.sendAction(action)).toMatchObject({ hosts: 0 })
      expect(changes.at(-1)).toEqual({ hosts: [] })
    })

    test('progress events follow a run to its end', async () => {
      const page = await connected()
      const progress = recorded(page, 'run_progress')
      page.subscribe(['run_progress'])
      const last = await runUntil(page, () => progress.find(({ run }) => run.state === 'completed'))
      const { run } = last
      expect(last.coverage.ratio).toBe(1)
      expect((await page.run(run.id)).state).toBe('completed')
      await expect(page.cancelRun(run.id)).rejects.toMatchObject({ status: 409 })
    })

    test('no events arrive after the last unsubscribe', async () => {
      const page = await connected()
      const progress = recorded(page, 'run_progress')
      const [first, second] = [page.subscribe(['run_progress']), page.subscribe(['run_progress'])]
      first()
      first() // a second call has no effect
      await runUntil(page, () => progress.length)
      second()
      // The reply arrives after the unsubscribe and after all earlier events.
      await page.sendAction({ actionId: 44100, name: 'view.ask', parameters: {} })
      const before = progress.length
      const other = await connected()
      const otherProgress = recorded(other, 'run_progress')
      other.subscribe(['run_progress'])
      await runUntil(other, () => otherProgress.find(({ run }) => run.state === 'completed'))
      await page.sendAction({ actionId: 44100, name: 'view.ask', parameters: {} })
      expect(progress.length).toBe(before)
    })
  })

  describe('while the server is down', () => {
    test('requests wait and are sent once on reconnect', async () => {
      const sent: string[] = []
      const counting: typeof fetch = (input, init) => {
        sent.push(`${init?.method} ${new URL(String(input)).pathname}`)
        return fetch(input, init)
      }
      const page = await connected({ fetch: counting })
      page.subscribe(['run_progress'])
      const progress = recorded(page, 'run_progress')
      const [disconnects, reconnects, queueUpdates] = [
        recorded(page, 'disconnected'),
        recorded(page, 'reconnected'),
        recorded(page, 'queue_updated'),
      ]
      await server.stop()
      await until(() => page.state === 'offline', 'offline')
      const run = page.startRun()
      const retried = page.retryFailures()
      const abort = new AbortController()
      const aborted = page.search({ query: 'kick' }, { signal: abort.signal })
      abort.abort()
      await expect(aborted).rejects.toMatchObject({ name: 'AbortError' })
      const cancelled = page.startRun({ limit: 5 })
      expect(page.connection.waiting.map(({ label }) => label)).toEqual([
        'Start backfill',
        'Retry all dead letters',
        'Start backfill',
      ])
      page.cancelWaiting(page.connection.waiting[2]?.id ?? 0)
      await expect(cancelled).rejects.toBeInstanceOf(OfflineError)
      await expect(page.status({ queue: false })).rejects.toMatchObject({ maybeSent: false })
      expect(sent).toEqual([])
      await server.start()
      expect((await run).collection).toBe('music_knowledge')
      expect(await retried).toBe(0)
      expect(sent).toEqual(['POST /api/runs', 'POST /api/failures/retry'])
      expect(disconnects).toHaveLength(1)
      expect(reconnects).toHaveLength(1)
      expect(reconnects[0]?.attempts).toBeGreaterThan(0)
      expect(queueUpdates.at(-1)?.length).toBe(0)
      await runUntil(page, () => progress.length)
    })

    test('a request that may have been sent is not sent again', async () => {
      let [requests, frames] = [0, 0]
      const unanswered: typeof fetch = (_, init) =>
        new Promise((_resolve, reject) => {
          requests += 1
          init?.signal?.addEventListener('abort', () => reject(new TypeError('network')))
        })
      class DroppingSocket extends NodeWebSocket {
        override send(data: string) {
          if (String(data).includes('"action"')) frames += 1
          else super.send(data)
        }
      }
      const page = await connected({
        fetch: unanswered,
        timeoutMs: 500,
        WebSocket: DroppingSocket as unknown as BridgeOptions['WebSocket'],
      })
      const run = page.startRun()
      const action = page.sendAction({ actionId: 44300, name: 'suggestion.apply', parameters: {} })
      const rejections = [
        expect(run).rejects.toMatchObject({ name: 'OfflineError', maybeSent: true }),
        expect(action).rejects.toMatchObject({ name: 'OfflineError', maybeSent: true }),
      ]
      await server.stop()
      await Promise.all(rejections)
      await server.start()
      await until(() => page.state === 'connected', 'connected')
      expect([requests, frames]).toEqual([1, 1])
    })

    test('the first connection is retried until the server starts', async () => {
      await server.stop()
      const page = bridge()
      const disconnects = recorded(page, 'disconnected')
      page.connect()
      await until(() => page.connection.attempt >= 2, 'two attempts')
      expect(disconnects).toHaveLength(1)
      expect(page.connection.retryAt === null || page.connection.retryAt > Date.now() - 1000).toBe(
        true,
      )
      await server.start()
      await until(() => page.state === 'connected', 'connected')
      expect(page.connection.attempt).toBe(0)
    })

    test('a full queue rejects a request, and closing rejects the queued ones', async () => {
      const page = await connected({ queueLimit: 1 })
      await server.stop()
      await until(() => page.state === 'offline', 'offline')
      const first = page.startRun()
      await expect(page.startRun()).rejects.toThrow(/queue is full \(1\)/)
      page.close()
      await expect(first).rejects.toThrow(/closed/)
      await expect(page.sendAction({ actionId: 1, name: 'x', parameters: {} })).rejects.toThrow(
        /connect\(\)/,
      )
      await server.start()
    })
  })
})

test('a server without roles is supported', async () => {
  const old = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  const data = { client_id: 'c', server_version: '0', heartbeat_seconds: 15 }
  old.on('connection', (socket) => {
    socket.send(JSON.stringify({ type: 'connected', data }))
    socket.on('message', (text) => {
      const { type, id } = JSON.parse(String(text))
      const refusal = { title: 'Wrong', detail: `There is no frame of type '${type}'`, status: 422 }
      const reply =
        type === 'action'
          ? { type: 'action_ack', data: { delivered: 2 }, id }
          : { type: 'error', data: refusal, id }
      socket.send(JSON.stringify(reply))
    })
  })
  await new Promise((resolve) => old.once('listening', resolve))
  const { port } = old.address() as { port: number }
  const page = bridge({ baseUrl: `http://127.0.0.1:${port}`, role: 'studio' })
  const errors = recorded(page, 'error')
  page.connect()
  await until(() => page.state === 'connected', 'connected')
  const action = { actionId: 44300, name: 'suggestion.apply', parameters: {} }
  expect(await page.sendAction(action)).toEqual({ clients: 2, hosts: 2 })
  expect(errors).toEqual([])
  page.close()
  old.close()
})

test('a silent socket is closed and opened again', async () => {
  const silent = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  let sockets = 0
  const data = { client_id: 'c', server_version: '0', heartbeat_seconds: 0.04 }
  silent.on('connection', (socket) => {
    sockets += 1
    socket.send(JSON.stringify({ type: 'connected', data }))
  })
  await new Promise((resolve) => silent.once('listening', resolve))
  const { port } = silent.address() as { port: number }
  const page = bridge({ baseUrl: `http://127.0.0.1:${port}` })
  const disconnects = recorded(page, 'disconnected')
  page.connect()
  await until(() => sockets >= 2, 'a second socket')
  expect(disconnects[0]?.reason).toBe('silent')
  page.close()
  silent.close()
})

describe.skipIf(missing)('bridge and a server with an API key', () => {
  let keyed: RunningServer
  beforeAll(async () => {
    keyed = await serve(database.data, { BACKLINE_API_KEY: KEY })
  })
  afterAll(() => keyed?.stop('SIGTERM'))
  afterEach(() => {
    for (const open of bridges.splice(0)) open.close()
  })

  test('writes need the key, over HTTP and over the socket', async () => {
    const page = bridge({ baseUrl: keyed.url })
    expect((await page.status()).auth.keyRequiredForWrites).toBe(true)
    await expect(page.startRun()).rejects.toMatchObject({ status: 401, needsKey: true })
    page.connect()
    await until(() => page.state === 'connected', 'connected')
    const action = { actionId: 44300, name: 'suggestion.apply', parameters: {} }
    await expect(page.sendAction(action)).rejects.toMatchObject({ status: 401 })
    page.setApiKey(KEY)
    expect(await page.sendAction(action)).toEqual({ clients: 0, hosts: 0 })
    expect((await page.startRun()).state).toMatch(/running|completed/)
    page.setApiKey(null)
    await expect(page.retryFailures()).rejects.toMatchObject({ status: 401 })
  })

  test('a key from the options authorizes the socket, also after a reconnect', async () => {
    const page = bridge({ baseUrl: keyed.url, apiKey: KEY })
    const authenticated = recorded(page, 'authenticated')
    page.connect()
    await until(() => authenticated.length === 1, 'authenticated')
    await keyed.stop()
    await until(() => page.state === 'offline', 'offline')
    const sent = page.sendAction({ actionId: 44300, name: 'suggestion.apply', parameters: {} })
    await keyed.start()
    expect(await sent).toEqual({ clients: 0, hosts: 0 })
    expect(authenticated.length).toBe(2)
  })
})
