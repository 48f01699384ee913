/** Suggestions that were applied in this tab: sent to the host, copied, or waiting for the connection. */
import { useSyncExternalStore } from 'react'
import { actionByName } from '@/shared/actions/registry'
import { type CodetteBridge, OfflineError } from '@/shared/bridge/codetteBridge'
import { copyText } from '@/shared/clipboard'

export type AppliedState = 'waiting' | 'sent' | 'copied' | 'unheard' | 'unsure'

export interface Suggested {
  key: string
  title: string
  parameters: Record<string, unknown>
}

export interface Applied extends Suggested {
  at: number
  state: AppliedState
  /** Clients that heard it. */
  delivered: number
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

/** Whoever else is connected hears an action: hosts, and other pages. */
export function clients(count: number): string {
  return count === 1 ? '1 client' : `${count} clients`
}

export function parametersText(parameters: Record<string, unknown>): string {
  return JSON.stringify(parameters, null, 2)
}

/**
 * Send a suggestion to the host; where nobody hears it, copy its parameters. While the server is
 * away it waits for it, and `apply` returns at once.
 */
export async function apply(bridge: CodetteBridge, suggested: Suggested): Promise<Applied> {
  const at = Date.now()
  const online = bridge.state === 'connected'
  const entry: Applied = { ...suggested, at, state: 'waiting', delivered: 0 }
  keep([entry, ...applied.filter(({ key }) => key !== suggested.key)])
  const abort = new AbortController()
  pending.set(suggested.key, abort)
  const sent = settle(bridge, entry, abort.signal, online)
  if (!online) return entry
  return sent
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
  let delivered = 0
  try {
    delivered = await bridge.sendAction(message('suggestion.apply', entry), {
      signal,
      label: `Apply “${entry.title}”`,
    })
  } catch (error) {
    if (signal.aborted) return {}
    if (!(error instanceof OfflineError)) {
      keep(applied.filter((each) => each.key !== entry.key))
      throw error
    }
    if (error.maybeSent) return { state: 'unsure' }
  }
  if (delivered > 0) return { state: 'sent', delivered }
  // Later, without a press of a key or button, a page may not copy.
  if (!mayCopy) return { state: 'unheard' }
  await copyText(parametersText(entry.parameters))
  return { state: 'copied' }
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
