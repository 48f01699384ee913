/** Views whose code comes when they are opened, or when the page has time; and what is shown until then. */
import { type ComponentType, useEffect, useSyncExternalStore } from 'react'
import { useBridge, useConnection } from '../shared/bridge/context'
import { ActionButton, Button, EmptyState, ErrorState, Skeleton } from '../shared/ui'

type State = { is: 'absent' | 'loading' | 'failed' } | { is: 'there'; View: ComponentType }

/** The code of a view. A load that fails can be tried again. */
export class Part {
  #state: State = { is: 'absent' }
  readonly title: string
  readonly #import: () => Promise<{ default: ComponentType }>
  readonly #listeners = new Set<() => void>()

  constructor(title: string, load: () => Promise<{ default: ComponentType }>) {
    this.title = title
    this.#import = load
  }

  readonly state = (): State => this.#state

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  readonly load = async (): Promise<void> => {
    if (this.#state.is === 'loading' || this.#state.is === 'there') return
    this.#become({ is: 'loading' })
    try {
      this.#become({ is: 'there', View: (await this.#import()).default })
    } catch {
      this.#become({ is: 'failed' })
    }
  }

  #become(state: State): void {
    this.#state = state
    for (const listener of this.#listeners) listener()
  }
}

export function LazyView({ part }: { part: Part }) {
  const state = useSyncExternalStore(part.subscribe, part.state)
  const { state: connection } = useConnection()
  useEffect(() => {
    // Also when the server is back.
    if (connection !== 'offline') void part.load()
  }, [part, connection])
  if (state.is === 'there') return <state.View />
  if (connection === 'offline') return <Away title={part.title} />
  if (state.is === 'failed') return <Missing part={part} />
  return <Loading />
}

/** Load what is not on the screen once the page is connected and has time. */
export function useEarly(parts: readonly Part[]): void {
  const bridge = useBridge()
  useEffect(() => {
    const early = () => {
      for (const part of parts) void part.load()
    }
    let timer: ReturnType<typeof setTimeout> | undefined
    const off = bridge.on('connected', () => {
      clearTimeout(timer)
      timer = setTimeout(early, EARLY_MS)
    })
    if (bridge.state === 'connected') timer = setTimeout(early, EARLY_MS)
    return () => {
      off()
      clearTimeout(timer)
    }
  }, [bridge, parts])
}
const EARLY_MS = 1_500

function Away({ title }: { title: string }) {
  return (
    <EmptyState title={`${title} waits for the server`}>
      This view was not opened before the server went. It is shown as soon as the server is back.
    </EmptyState>
  )
}

/** The server is there, and the code is not: most often it is another version by now. */
function Missing({ part }: { part: Part }) {
  return (
    <ErrorState
      error={
        new Error(
          'The server is there, but has not sent the code of this view. It may have been updated since this page was opened: then load the page anew. The address holds what you see.',
        )
      }
      title={`${part.title} could not be loaded`}
      actions={
        <>
          <Button onClick={() => void part.load()}>Try again</Button>
          <ActionButton action="session.reload" />
        </>
      }
    />
  )
}

export function Loading() {
  return (
    <div aria-busy="true" style={{ display: 'grid', gap: 12 }}>
      <span className="hidden-text">Loading</span>
      <Skeleton height={44} />
      <Skeleton height={280} />
    </div>
  )
}
