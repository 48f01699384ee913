/** The suggestions applied in this tab: sent to a host, copied, or waiting for the connection. */
import { useSyncExternalStore } from 'react'
import { actionByName } from '../actions/registry'
import { type CodetteBridge, OfflineError } from '../bridge/codetteBridge'
import { copyText } from '../clipboard'
import { notify } from '../ui/Notices'

/** `hostless`: the server is connected, a host is not. `unsure`: the host may have received it. */
export type AppliedState = 'waiting' | 'hostless' | 'sent' | 'copied' | 'unsure'

export interface SuggestedParameters {
  key: string
  title: string
  parameters: Record<string, unknown>
}

export interface Applied extends SuggestedParameters {
  /** Milliseconds since 1970. */
  appliedAt: number
  state: AppliedState
  /** Names of the hosts that received it. */
  hosts: readonly string[]
}

let applied: readonly Applied[] = []
const pending = new Map<string, AbortController>()
const listeners = new Set<() => void>()

function setApplied(entries: readonly Applied[]): void {
  applied = entries
  for (const listener of listeners) listener()
}

/** Change an entry, unless a later application of the same suggestion has replaced it. */
function patch({ key, appliedAt }: Applied, change: Partial<Applied>): void {
  const isSame = (other: Applied) => other.key === key && other.appliedAt === appliedAt
  setApplied(applied.map((other) => (isSame(other) ? { ...other, ...change } : other)))
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** The applied suggestions, newest first. */
export function useApplied(): readonly Applied[] {
  return useSyncExternalStore(subscribe, () => applied)
}

export function findApplied(key: string): Applied | undefined {
  return applied.find((entry) => entry.key === key)
}

function actionOf(
  name: 'suggestion.apply' | 'suggestion.revert',
  { key, title, parameters }: SuggestedParameters,
) {
  return { actionId: actionByName.get(name)?.id ?? 0, name, parameters: { key, title, parameters } }
}

/** Return the names of hosts as text. The server names an anonymous host `host`. */
export function hostNames(hosts: readonly string[]): string {
  if (hosts.length === 0) return 'the host'
  return hosts.length === 1 && hosts[0] === 'host' ? 'the host' : hosts.join(' and ')
}

export function parametersText(parameters: Record<string, unknown>): string {
  return JSON.stringify(parameters, null, 2)
}

/**
 * Send a suggestion to the host, or copy its parameters if no host is connected. While offline,
 * return immediately and send it when the server and a host are connected.
 */
export async function apply(
  bridge: CodetteBridge,
  suggestion: SuggestedParameters,
): Promise<Applied> {
  const online = bridge.state === 'connected'
  const entry: Applied = { ...suggestion, appliedAt: Date.now(), state: 'waiting', hosts: [] }
  setApplied([entry, ...applied.filter(({ key }) => key !== suggestion.key)])
  const abort = new AbortController()
  pending.set(suggestion.key, abort)
  const sent = deliver(bridge, entry, abort.signal, online)
  if (online) return sent
  sent.catch((error: unknown) => notify(`Apply “${entry.title}”: ${String(error)}`, 'error'))
  return entry
}

/** Send an entry, record the outcome, and return the entry with it. */
async function deliver(
  bridge: CodetteBridge,
  entry: Applied,
  signal: AbortSignal,
  canCopy: boolean,
): Promise<Applied> {
  const change = await sendOrCopy(bridge, entry, signal, canCopy)
  pending.delete(entry.key)
  if (signal.aborted) return entry
  patch(entry, change)
  return { ...entry, ...change }
}

async function sendOrCopy(
  bridge: CodetteBridge,
  entry: Applied,
  signal: AbortSignal,
  canCopy: boolean,
): Promise<Partial<Applied>> {
  try {
    const label = `Apply “${entry.title}”`
    const { hosts } = await bridge.sendAction(actionOf('suggestion.apply', entry), {
      signal,
      label,
    })
    if (hosts > 0) return { state: 'sent', hosts: bridge.connection.hosts }
  } catch (error) {
    if (signal.aborted) return {}
    if (!(error instanceof OfflineError)) {
      setApplied(applied.filter(({ key }) => key !== entry.key))
      throw error
    }
    if (error.maybeSent) return { state: 'unsure' }
  }
  // Browsers allow clipboard access only during a user action, so a delayed entry is not copied.
  if (!canCopy) return sendToNextHost(bridge, entry, signal)
  await copyText(parametersText(entry.parameters))
  return { state: 'copied' }
}

async function sendToNextHost(
  bridge: CodetteBridge,
  entry: Applied,
  signal: AbortSignal,
): Promise<Partial<Applied>> {
  patch(entry, { state: 'hostless' })
  await hostConnected(bridge, signal).catch(() => {})
  return signal.aborted ? {} : sendOrCopy(bridge, entry, signal, false)
}

/** Resolve when a host is connected. Reject when `signal` aborts. */
function hostConnected(bridge: CodetteBridge, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const finish = () => {
      off()
      resolve()
    }
    const off = bridge.on('hosts_changed', ({ hosts }) => {
      if (hosts.length > 0) finish()
    })
    signal.addEventListener('abort', () => {
      off()
      reject(signal.reason)
    })
    if (bridge.connection.hosts.length > 0) finish()
  })
}

/** Cancel a waiting suggestion or send the host a revert. Return the entry, or null without one. */
export async function revert(bridge: CodetteBridge, key: string): Promise<Applied | null> {
  const entry = findApplied(key)
  if (!entry) return null
  setApplied(applied.filter((other) => other !== entry))
  const waiting = pending.get(key)
  if (waiting) {
    waiting.abort(new OfflineError('Cancelled before it was sent.', false))
    pending.delete(key)
  } else if (entry.state === 'sent' || entry.state === 'unsure') {
    await sendRevert(bridge, entry)
  }
  return entry
}

async function sendRevert(bridge: CodetteBridge, entry: Applied): Promise<void> {
  const label = `Revert “${entry.title}”`
  const sent = bridge.sendAction(actionOf('suggestion.revert', entry), { label })
  if (bridge.state === 'connected') await sent
  else sent.catch(() => {}) // it is queued and listed as waiting
}
