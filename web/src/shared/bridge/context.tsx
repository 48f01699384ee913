import { createContext, type ReactNode, useContext, useEffect, useSyncExternalStore } from 'react'
import type { CodetteBridge, Connection, Topic } from './codetteBridge'

interface BridgeStore {
  bridge: CodetteBridge
  read: () => Connection
  subscribe: (onChange: () => void) => () => void
}

const Context = createContext<BridgeStore | null>(null)

/** Cache the connection: the bridge builds a new object on each read, React needs a stable one. */
function createStore(bridge: CodetteBridge): BridgeStore {
  let latest = bridge.connection
  bridge.on('connection_changed', (connection) => {
    latest = connection
  })
  return {
    bridge,
    read: () => latest,
    subscribe: (onChange) => bridge.on('connection_changed', onChange),
  }
}

const stores = new WeakMap<CodetteBridge, BridgeStore>()

export function BridgeProvider({
  bridge,
  children,
}: {
  bridge: CodetteBridge
  children: ReactNode
}) {
  const store = stores.get(bridge) ?? createStore(bridge)
  stores.set(bridge, store)
  return <Context value={store}>{children}</Context>
}

function useStore(): BridgeStore {
  const store = useContext(Context)
  if (!store) throw new Error('useBridge needs a BridgeProvider above the component.')
  return store
}

export function useBridge(): CodetteBridge {
  return useStore().bridge
}

export function useConnection(): Connection & { online: boolean } {
  const { read, subscribe } = useStore()
  const connection = useSyncExternalStore(subscribe, read)
  return { ...connection, online: connection.state === 'connected' }
}

/** Subscribe to topics while mounted. */
export function useTopics(topics: readonly Topic[]): void {
  const bridge = useBridge()
  const joined = topics.join(' ')
  useEffect(() => bridge.subscribe(joined.split(' ') as Topic[]), [bridge, joined])
}
