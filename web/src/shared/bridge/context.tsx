import { createContext, type ReactNode, useContext, useEffect, useSyncExternalStore } from 'react'
import type { BridgeEvents, CodetteBridge, Connection, Topic } from './codetteBridge'

interface Held {
  bridge: CodetteBridge
  read: () => Connection
  listen: (changed: () => void) => () => void
}

const Context = createContext<Held | null>(null)

/** A connection is a new object at each reading; React needs the same one until something changes. */
function held(bridge: CodetteBridge): Held {
  let last = bridge.connection
  bridge.on('connection_changed', (connection) => {
    last = connection
  })
  return {
    bridge,
    read: () => last,
    listen: (changed) => bridge.on('connection_changed', changed),
  }
}

const made = new WeakMap<CodetteBridge, Held>()

export function BridgeProvider({
  bridge,
  children,
}: {
  bridge: CodetteBridge
  children: ReactNode
}) {
  const value = made.get(bridge) ?? held(bridge)
  made.set(bridge, value)
  return <Context value={value}>{children}</Context>
}

function useHeld(): Held {
  const value = useContext(Context)
  if (!value) throw new Error('There is no BridgeProvider above.')
  return value
}

export function useBridge(): CodetteBridge {
  return useHeld().bridge
}

export function useConnection(): Connection & { online: boolean } {
  const { read, listen } = useHeld()
  const connection = useSyncExternalStore(listen, read)
  return { ...connection, online: connection.state === 'connected' }
}

/** Hear an event while mounted. `handler` should be stable, or made by useCallback. */
export function useBridgeEvent<K extends keyof BridgeEvents>(
  event: K,
  handler: (data: BridgeEvents[K]) => void,
): void {
  const bridge = useBridge()
  useEffect(() => bridge.on(event, handler), [bridge, event, handler])
}

/** Subscribe to topics while mounted. */
export function useTopics(topics: readonly Topic[]): void {
  const bridge = useBridge()
  const joined = topics.join(' ')
  useEffect(() => bridge.subscribe(joined.split(' ') as Topic[]), [bridge, joined])
}
