/** Starts `backline serve` for the tests, on a separate embedded Postgres with the demo data. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = fileURLToPath(new URL('../..', import.meta.url))
const program = join(root, '.venv', 'bin', 'backline')
const START_TIMEOUT_MS = 120_000

export const missing = existsSync(program) ? null : `${program} is missing: run make setup`

export interface RunningServer {
  url: string
  /** Send the process a signal, SIGKILL by default, and wait for its end. */
  stop(signal?: NodeJS.Signals): Promise<void>
  /** Start the process again on the same port. */
  start(): Promise<void>
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

async function ready(url: string, child: ChildProcess): Promise<void> {
  for (const end = Date.now() + START_TIMEOUT_MS; Date.now() < end; ) {
    if (child.exitCode !== null) throw new Error(`The server ended with ${child.exitCode}.`)
    try {
      if ((await fetch(`${url}/health/ready`)).ok) return
    } catch {
      // The server does not listen yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  throw new Error(`The server was not ready within ${START_TIMEOUT_MS / 1000} seconds.`)
}

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve()
  return new Promise((resolve) => child.once('exit', () => resolve()))
}

/** Create a database with the demo data. */
export async function createDatabase(): Promise<{ data: string; remove: () => void }> {
  const data = mkdtempSync(join(tmpdir(), 'backline-studio-'))
  await promisify(execFile)(program, ['demo'], { env: environment(data) })
  return { data, remove: () => rmSync(data, { recursive: true, force: true }) }
}

function environment(data: string, variables: Record<string, string> = {}): NodeJS.ProcessEnv {
  return { ...process.env, ...variables, BACKLINE_DATA_DIR: data, PYTHONPATH: join(root, 'src') }
}

export async function serve(
  data: string,
  variables: Record<string, string> = {},
): Promise<RunningServer> {
  const env = environment(data, variables)
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  let child: ChildProcess | undefined
  const running: RunningServer = {
    url,
    async start() {
      child = spawn(program, ['serve', '--port', String(port)], { env, stdio: 'ignore' })
      await ready(url, child)
    },
    async stop(signal = 'SIGKILL') {
      if (!child) return
      child.kill(signal)
      await ended(child)
    },
  }
  await running.start()
  return running
}

/** Wait until `read` returns a truthy value, and return it. */
export async function until<T>(
  read: () => T | Promise<T>,
  description: string,
  ms = 60_000,
): Promise<NonNullable<T>> {
  for (const end = Date.now() + ms; Date.now() < end; ) {
    const value = await read()
    if (value) return value
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  throw new Error(`Timed out after ${ms / 1000} seconds: ${description}.`)
}
