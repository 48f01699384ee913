/** Suggestions that were applied in this tab: sent to the host, copied, or waiting for the connection. */
import { useSyncExternalStore } from 'react'
import { actionByName } from '@/shared/actions/registry'
import { type CodetteBridge, OfflineError } from '@/shared/bridge/codetteBridge'
import { copyText } from '@/shared/clipboard'
import { notify } from '@/shared/ui/Notices'

/** `hostless`: the server is back, and the host is not yet. */
export type AppliedState = 'waiting' | 'hostless' | 'sent' | 'copied' | 'unsure'

export interface Suggested {
  key: string
  title: string
  parameters: Record<string, unknown>
}

export interface Applied extends Suggested {
  at: number
  state: AppliedState
  /** Who took it. */
  hosts: readonly string[]
}

let applied: readonly Applied[] = []
const pending = new Map<string, AbortController>()
const listeners = new Set<() => void>()

function keep(changed: readonly Applied[]): void {
  applied = changed
  for (const listener of listeners) listener()
}

function patch(key: string, at: number, change: Partial<Applied>): void {
  keep(applied.map((each) => (each.key === key && each.at === at ? { ...each, ...change } : each)))
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** The newest first. */
export function useApplied(): readonly Applied[] {
  return useSyncExternalStore(subscribe, () => applied)
}

export function findApplied(key: string): Applied | undefined {
  return applied.find((each) => each.key === key)
}

function message(
  name: 'suggestion.apply' | 'suggestion.revert',
  { key, title, parameters }: Suggested,
) {
  return { actionId: actionByName.get(name)?.id ?? 0, name, parameters: { key, title, parameters } }
}

/** Hosts by their names. */
export function named(hosts: readonly string[]): string {
  if (hosts.length === 0) return 'the host'
  return hosts.length === 1 && hosts[0] === 'host' ? 'the host' : hosts.join(' and ')
}

export function parametersText(parameters: Record<string, unknown>): string {
  return JSON.stringify(parameters, null, 2)
}

/**
 * Send a suggestion to the host; where there is none, copy its parameters. While the server is away
 * it waits, for the server and then for a host, and `apply` returns at once.
 */
export async function apply(bridge: CodetteBridge, suggested: Suggested): Promise<Applied> {
  const at = Date.now()
  const online = bridge.state === 'connected'
  const entry: Applied = { ...suggested, at, state: 'waiting', hosts: [] }
  keep([entry, ...applied.filter(({ key }) => key !== suggested.key)])
  const abort = new AbortController()
  pending.set(suggested.key, abort)
  const sent = settle(bridge, entry, abort.signal, online)
  if (online) return sent
  sent.catch((error: unknown) => notify(`Apply “${entry.title}”: ${String(error)}`, 'error'))
  return entry
}

async function settle(
  bridge: CodetteBridge,
  entry: Applied,
  signal: AbortSignal,
  mayCopy: boolean,
): Promise<Applied> {
  const { key, at } = entry
  const change = await outcome(bridge, entry, signal, mayCopy)
  pending.delete(key)
  if (signal.aborted) return entry
  patch(key, at, change)
  return { ...entry, ...change }
}

async function outcome(
  bridge: CodetteBridge,
  entry: Applied,
  signal: AbortSignal,
  mayCopy: boolean,
): Promise<Partial<Applied>> {
  try {
    const label = `Apply “${entry.title}”`
    const { hosts } = await bridge.sendAction(message('suggestion.apply', entry), { signal, label })
    if (hosts > 0) return { state: 'sent', hosts: bridge.connection.hosts }
  } catch (error) {
    if (signal.aborted) return {}
    if (!(error instanceof OfflineError)) {
      keep(applied.filter((each) => each.key !== entry.key))
      throw error
    }
    if (error.maybeSent) return { state: 'unsure' }
  }
  // Later, without a press of a key or button, a page may not copy.
  if (!mayCopy) return afterHost(bridge, entry, signal)
  await copyText(parametersText(entry.parameters))
  return { state: 'copied' }
}

/** No host took it: send it to the one that comes. */
async function afterHost(
  bridge: CodetteBridge,
  entry: Applied,
  signal: AbortSignal,
): Promise<Partial<Applied>> {
  patch(entry.key, entry.at, { state: 'hostless' })
  await new Promise<void>((resolve, reject) => {
    const off = bridge.on('hosts_changed', ({ hosts }) => {
      if (hosts.length === 0) return
      off()
      resolve()
    })
    signal.addEventListener('abort', () => {
      off()
      reject(signal.reason)
    })
    if (bridge.connection.hosts.length > 0) {
      off()
      resolve()
    }
  }).catch(() => {})
  return signal.aborted ? {} : outcome(bridge, entry, signal, false)
}

/** Take a suggestion back: tell the host, or take it out of the queue. Returns what it was. */
export async function revert(bridge: CodetteBridge, key: string): Promise<Applied | null> {
  const entry = findApplied(key)
  if (!entry) return null
  keep(applied.filter((each) => each !== entry))
  const waiting = pending.get(key)
  if (waiting) {
    waiting.abort(new OfflineError('Taken back before it was sent.', false))
    pending.delete(key)
  } else if (entry.state === 'sent' || entry.state === 'unsure') {
    await tellReverted(bridge, entry)
  }
  return entry
}

async function tellReverted(bridge: CodetteBridge, entry: Applied): Promise<void> {
  const label = `Take back “${entry.title}”`
  const sent = bridge.sendAction(message('suggestion.revert', entry), { label })
  if (bridge.state === 'connected') await sent
  else sent.catch(() => {}) // it waits, and is listed as waiting
}
