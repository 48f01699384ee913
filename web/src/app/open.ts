/** Which of the page's dialogs is open. */
import { useSyncExternalStore } from 'react'

export type Opened = 'palette' | 'key' | null

let opened: Opened = null
const listeners = new Set<() => void>()

export function open(which: Opened): void {
  opened = which
  for (const listener of listeners) listener()
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

export function useOpen(): Opened {
  return useSyncExternalStore(subscribe, () => opened)
}
