/** Which dialog of the page is open. */
import { useSyncExternalStore } from 'react'

export type DialogName = 'palette' | 'key' | null

let openName: DialogName = null
const listeners = new Set<() => void>()

/** Open a dialog and close the current one. Null only closes it. */
export function openDialog(name: DialogName): void {
  openName = name
  for (const listener of listeners) listener()
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

export function useOpenDialog(): DialogName {
  return useSyncExternalStore(subscribe, () => openName)
}
