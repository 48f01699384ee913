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
import { filled, missing, type RunningServer, serve, until } from './server'

const KEY = 'studio-test-key-0123456789'
let server: RunningServer
const bridges: CodetteBridge[] = []

let database: Awaited<ReturnType<typeof filled>>

beforeAll(async () => {
  if (missing) return
  database = await filled()
  server = await serve(database.data)
})
// In good order, so that the embedded Postgres ends with the last of them.
afterAll(async () => {
  await server?.stop('SIGTERM')
  database?.remove()
})

if (missing) console.warn(`BRIDGE NOT TESTED: ${missing}`)

function bridge(options: BridgeOptions = {}): CodetteBridge {
  const made = new CodetteBridge({
    baseUrl: server?.url,
    WebSocket: NodeWebSocket as unknown as BridgeOptions['WebSocket'],
    backoff: { firstMs: 40, mostMs: 200 },
    timeoutMs: 60_000,
    ...options,
  })
  bridges.push(made)
  return made
}

function heard<K extends keyof BridgeEvents>(from: CodetteBridge, event: K): BridgeEvents[K][] {
  const events: BridgeEvents[K][] = []
  from.on(event, (data) => events.push(data))
  return events
}

async function connected(options: BridgeOptions = {}): Promise<CodetteBridge> {
  const made = bridge(options)
  made.connect()
  await until(() => made.state === 'connected', 'connected')
  return made
}

/** Until so many clients are connected: those of other tests have been let go. */
function clientsOf(from: CodetteBridge, count: number): Promise<boolean> {
  return until(async () => (await from.status()).clients === count, `${count} clients`)
}

/**
 * Start runs until something is so. The server looks twice a second, and tells a new listener nothing
 * of a run that was over at its first look.
 */
function runUntil<T>(from: CodetteBridge, look: () => T): Promise<NonNullable<T>> {
  return until(async () => {
    const [latest] = await from.runs({ limit: 1 })
    if (latest?.state !== 'running' && !look()) {
      await from.startRun({ batchSize: 64 })
      await new Promise((resolve) => setTimeout(resolve, 300))
    }
    return look()
  }, 'what a run should bring')
}

describe.skipIf(missing)('the bridge and a real server', () => {
  afterEach(() => {
    for (const each of bridges.splice(0)) each.close()
  })

  describe('HTTP', () => {
    test('status tells of the collection and its coverage, camelCased', async () => {
      const { collections, server: info } = await bridge().status()
      expect(info.uptimeSeconds).toBeGreaterThan(0)
      expect(collections[0]).toMatchObject({
        name: 'music_knowledge',
        keyColumn: 'id',
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

    test('a condition on columns narrows a search', async () => {
      const { hits } = await bridge().search({
        query: 'muddy vocals',
        where: { category: 'mixing' },
      })
      expect(hits.length).toBeGreaterThan(0)
      expect(hits.every(({ row }) => row.category === 'mixing')).toBe(true)
    })

    test('suggest sends its context and tells whoever listens', async () => {
      const made = bridge()
      const received = heard(made, 'suggestion_received')
      const found = await made.suggest({
        prompt: 'my vocals sound muddy',
        context: { trackType: 'vocals', bpm: 120 },
        limit: 2,
      })
      expect(found.suggestions).toHaveLength(2)
      expect(found.suggestions.some(({ reason }) => reason.includes('speaks of vocals'))).toBe(true)
      expect(received).toEqual([found])
    })

    test('facets, map, the place of a question, actions, failures', async () => {
      const made = bridge()
      const { facets } = await made.facets()
      expect(facets.category?.find(({ value }) => value === 'sound_design')?.count).toBe(21)
      const map = await made.map(undefined, 100)
      expect([map.keys.length, map.x.length, map.y.length, map.titles.length]).toEqual([
        100, 100, 100, 100,
      ])
      const place = await made.mapQuery('kick', undefined, 100)
      expect(Math.abs(place.x)).toBeLessThanOrEqual(2)
      expect((await made.actions()).find(({ id }) => id === 44300)?.name).toBe('suggestion.apply')
      expect(await made.failures()).toEqual({ failures: [], total: 0, next: null })
      expect(await made.retryFailures()).toBe(0)
    })

    test('a refusal is a ProblemError with the server’s own words', async () => {
      const refused = bridge().run(999_999)
      await expect(refused).rejects.toBeInstanceOf(ProblemError)
      await expect(refused).rejects.toMatchObject({
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

    test('an answer of another shape is a ProtocolError that names the member', async () => {
      const other: typeof fetch = async () => Response.json({ runs: [{ id: 'one' }] })
      await expect(bridge({ fetch: other }).runs()).rejects.toThrow(ProtocolError)
      await expect(bridge({ fetch: other }).runs()).rejects.toThrow(/runs\.0\./)
    })

    test('an aborted request rejects as aborted', async () => {
      const abort = new AbortController()
      const asked = bridge().search({ query: 'kick' }, { signal: abort.signal })
      abort.abort()
      await expect(asked).rejects.toMatchObject({ name: 'AbortError' })
    })
  })

  describe('WebSocket', () => {
    test('says that it is connected, and what the server’s state is', async () => {
      const made = bridge()
      const hello = heard(made, 'connected')
      const status = heard(made, 'server_status')
      made.connect()
      made.connect() // a second call opens no second socket
      await until(() => status.length, 'server_status')
      expect(hello).toHaveLength(1)
      expect(made.connection.clientId).toBe(hello[0]?.clientId)
      expect(status[0]?.collections[0]?.name).toBe('music_knowledge')
    })

    test('an action reaches the others, with its parameters as they were', async () => {
      const [host, page] = [await connected(), await connected()]
      await clientsOf(page, 2)
      const received = heard(host, 'action')
      const own = heard(page, 'action')
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

    test('without anybody else, nobody hears an action', async () => {
      const page = await connected()
      await clientsOf(page, 1)
      expect(
        await page.sendAction({ actionId: 44300, name: 'suggestion.apply', parameters: {} }),
      ).toEqual({ clients: 0, hosts: 0 })
    })

    test('a studio knows which hosts there are, and whether one was sent an action', async () => {
      const page = await connected({ role: 'studio' })
      await until(async () => (await page.status()).hosts.length === 0, 'no host of another test')
      const changes = heard(page, 'hosts_changed')
      const host = await connected({ role: 'host', name: 'Plugin' })
      await until(() => page.connection.hosts.length, 'the host to be known')
      expect(page.connection.hosts).toEqual(['Plugin'])
      const other = await connected({ role: 'studio' })
      await until(() => other.connection.hosts.length, 'the host to be known to who comes later')
      const action = { actionId: 44300, name: 'suggestion.apply', parameters: {} }
      expect(await page.sendAction(action)).toMatchObject({ hosts: 1 })
      host.close()
      await until(() => page.connection.hosts.length === 0, 'the host to be gone')
      expect(await page.sendAction(action)).toMatchObject({ hosts: 0 })
      expect(changes.at(-1)).toEqual({ hosts: [] })
    })

    test('a run is followed to its end', async () => {
      const page = await connected()
      const progress = heard(page, 'run_progress')
      page.subscribe(['run_progress'])
      const last = await runUntil(page, () => progress.find(({ run }) => run.state === 'completed'))
      const { run } = last
      expect(last.coverage.ratio).toBe(1)
      expect((await page.run(run.id)).state).toBe('completed')
      await expect(page.cancelRun(run.id)).rejects.toMatchObject({ status: 409 })
    })

    test('after the last unsubscribe the topic is silent', async () => {
      const page = await connected()
      const progress = heard(page, 'run_progress')
      const [first, second] = [page.subscribe(['run_progress']), page.subscribe(['run_progress'])]
      first()
      first() // twice is once
      await runUntil(page, () => progress.length)
      second()
      // Answered after the unsubscribing, and after all that was told before it.
      await page.sendAction({ actionId: 44100, name: 'view.ask', parameters: {} })
      const before = progress.length
      const other = await connected()
      const seen = heard(other, 'run_progress')
      other.subscribe(['run_progress'])
      await runUntil(other, () => seen.find(({ run }) => run.state === 'completed'))
      await page.sendAction({ actionId: 44100, name: 'view.ask', parameters: {} })
      expect(progress.length).toBe(before)
    })
  })

  describe('while the server is gone', () => {
    test('requests wait, and each is sent once when it is back', async () => {
      const sent: string[] = []
      const counting: typeof fetch = (input, init) => {
        sent.push(`${init?.method} ${new URL(String(input)).pathname}`)
        return fetch(input, init)
      }
      const page = await connected({ fetch: counting })
      page.subscribe(['run_progress'])
      const progress = heard(page, 'run_progress')
      const [lost, back, queue] = [
        heard(page, 'disconnected'),
        heard(page, 'reconnected'),
        heard(page, 'queue_updated'),
      ]
      await server.stop()
      await until(() => page.state === 'offline', 'offline')
      const run = page.startRun()
      const retried = page.retryFailures()
      const abort = new AbortController()
      const dropped = page.search({ query: 'kick' }, { signal: abort.signal })
      abort.abort()
      await expect(dropped).rejects.toMatchObject({ name: 'AbortError' })
      const taken = page.startRun({ limit: 5 })
      expect(page.connection.waiting.map(({ label }) => label)).toEqual([
        'Start a backfill',
        'Retry all dead letters',
        'Start a backfill',
      ])
      page.cancelWaiting(page.connection.waiting[2]?.id ?? 0)
      await expect(taken).rejects.toBeInstanceOf(OfflineError)
      await expect(page.status({ queue: false })).rejects.toMatchObject({ maybeSent: false })
      expect(sent).toEqual([])
      await server.start()
      expect((await run).collection).toBe('music_knowledge')
      expect(await retried).toBe(0)
      expect(sent).toEqual(['POST /api/runs', 'POST /api/failures/retry'])
      expect(lost).toHaveLength(1)
      expect(back).toHaveLength(1)
      expect(back[0]?.attempts).toBeGreaterThan(0)
      expect(queue.at(-1)?.length).toBe(0)
      await runUntil(page, () => progress.length)
    })

    test('what was under way when the connection broke is not sent again', async () => {
      let [requests, frames] = [0, 0]
      const unanswered: typeof fetch = (_, init) =>
        new Promise((_resolve, reject) => {
          requests += 1
          init?.signal?.addEventListener('abort', () => reject(new TypeError('network')))
        })
      class Swallowing extends NodeWebSocket {
        override send(data: string) {
          if (String(data).includes('"action"')) frames += 1
          else super.send(data)
        }
      }
      const page = await connected({
        fetch: unanswered,
        timeoutMs: 500,
        WebSocket: Swallowing as unknown as BridgeOptions['WebSocket'],
      })
      const run = page.startRun()
      const action = page.sendAction({ actionId: 44300, name: 'suggestion.apply', parameters: {} })
      const refused = [
        expect(run).rejects.toMatchObject({ name: 'OfflineError', maybeSent: true }),
        expect(action).rejects.toMatchObject({ name: 'OfflineError', maybeSent: true }),
      ]
      await server.stop()
      await Promise.all(refused)
      await server.start()
      await until(() => page.state === 'connected', 'connected')
      expect([requests, frames]).toEqual([1, 1])
    })

    test('the first connection is tried again until the server is there', async () => {
      await server.stop()
      const page = bridge()
      const lost = heard(page, 'disconnected')
      page.connect()
      await until(() => page.connection.attempt >= 2, 'two tries')
      expect(lost).toHaveLength(1)
      expect(page.connection.retryAt === null || page.connection.retryAt > Date.now() - 1000).toBe(
        true,
      )
      await server.start()
      await until(() => page.state === 'connected', 'connected')
      expect(page.connection.attempt).toBe(0)
    })

    test('a full queue refuses, and closing refuses what waits', async () => {
      const page = await connected({ queueLimit: 1 })
      await server.stop()
      await until(() => page.state === 'offline', 'offline')
      const first = page.startRun()
      await expect(page.startRun()).rejects.toThrow(/1 requests wait already/)
      page.close()
      await expect(first).rejects.toThrow(/closed/)
      await expect(page.sendAction({ actionId: 1, name: 'x', parameters: {} })).rejects.toThrow(
        /connect\(\)/,
      )
      await server.start()
    })
  })
})

test('a server that does not know of hosts is spoken to as before', async () => {
  const old = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  const data = { client_id: 'c', server_version: '0', heartbeat_seconds: 15 }
  old.on('connection', (socket) => {
    socket.send(JSON.stringify({ type: 'connected', data }))
    socket.on('message', (text) => {
      const { type, id } = JSON.parse(String(text))
      const refusal = { title: 'Wrong', detail: `There is no frame of type '${type}'`, status: 422 }
      const answer =
        type === 'action'
          ? { type: 'action_ack', data: { delivered: 2 }, id }
          : { type: 'error', data: refusal, id }
      socket.send(JSON.stringify(answer))
    })
  })
  await new Promise((resolve) => old.once('listening', resolve))
  const { port } = old.address() as { port: number }
  const page = bridge({ baseUrl: `http://127.0.0.1:${port}`, role: 'studio' })
  const errors = heard(page, 'error')
  page.connect()
  await until(() => page.state === 'connected', 'connected')
  const action = { actionId: 44300, name: 'suggestion.apply', parameters: {} }
  expect(await page.sendAction(action)).toEqual({ clients: 2, hosts: 2 })
  expect(errors).toEqual([])
  page.close()
  old.close()
})

test('a socket that falls silent is given up and opened again', async () => {
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
  const lost = heard(page, 'disconnected')
  page.connect()
  await until(() => sockets >= 2, 'a second socket')
  expect(lost[0]?.reason).toBe('silent')
  page.close()
  silent.close()
})

describe.skipIf(missing)('the bridge and a server with a key', () => {
  let keyed: RunningServer
  beforeAll(async () => {
    keyed = await serve(database.data, { BACKLINE_API_KEY: KEY })
  })
  afterAll(() => keyed?.stop('SIGTERM'))
  afterEach(() => {
    for (const each of bridges.splice(0)) each.close()
  })

  test('without it writes are refused; with it, also by socket, they are taken', async () => {
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

  test('a key given beforehand opens the socket’s writes, again after a reconnect', async () => {
    const page = bridge({ baseUrl: keyed.url, apiKey: KEY })
    const known = heard(page, 'authenticated')
    page.connect()
    await until(() => known.length === 1, 'authenticated')
    await keyed.stop()
    await until(() => page.state === 'offline', 'offline')
    const sent = page.sendAction({ actionId: 44300, name: 'suggestion.apply', parameters: {} })
    await keyed.start()
    expect(await sent).toEqual({ clients: 0, hosts: 0 })
    expect(known.length).toBe(2)
  })
})
