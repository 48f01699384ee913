import { useQuery } from '@tanstack/react-query'
import { type ReactNode, useEffect, useState } from 'react'
import { Link, useLocation, useSearch } from 'wouter'
import { useShortcutOf } from '@/shared/actions/shortcuts'
import { runAction } from '@/shared/actions/useAction'
import { statusQuery } from '@/shared/api/queries'
import { useBridge, useConnection } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { ActionButton, Button, cx, Keys } from '@/shared/ui'
import { addressOf, sharedQuery } from '@/shared/url'
import css from './layout.module.css'
import { VIEWS, type View } from './views'

export function Layout({ children }: { children: ReactNode }) {
  return (
    <div className={css.page}>
      <a className={css.skip} href="#main">
        Skip to content
      </a>
      <header className={css.bar}>
        <span className={css.brand}>Backline</span>
        <Navigation />
        <div className={css.tools}>
          <CollectionChoice />
          <PaletteButton />
          <ThemeButton />
          <ConnectionStatus />
        </div>
      </header>
      <OfflineBar />
      <main id="main" className={css.main} tabIndex={-1}>
        {children}
      </main>
    </div>
  )
}

function Navigation() {
  return (
    <nav aria-label="Views" className={css.nav}>
      {VIEWS.map((view) => (
        <NavigationLink key={view.name} {...view} />
      ))}
    </nav>
  )
}

function NavigationLink({ path, title }: View) {
  const [currentPath] = useLocation()
  const search = useSearch()
  const current = currentPath === path
  const href = current ? addressOf(path, search) : addressOf(path, sharedQuery(search))
  return (
    <Link href={href} className={css.link} aria-current={current ? 'page' : undefined}>
      {title}
    </Link>
  )
}

function CollectionChoice() {
  const { name, all } = useCollection()
  if (all.length < 2) return null
  return (
    <label className={css.collection}>
      <span className="hidden-text">Collection</span>
      <select
        value={name}
        onChange={(event) =>
          void runAction('collection.select', { collection: event.target.value })
        }
      >
        {all.map((collection) => (
          <option key={collection.name}>{collection.name}</option>
        ))}
      </select>
    </label>
  )
}

function PaletteButton() {
  const keys = useShortcutOf('palette.open')
  return (
    <Button kind="ghost" className={css.palette} onClick={() => void runAction('palette.open')}>
      <span className={css.paletteName}>Actions…</span>
      <span className={css.paletteIcon} aria-hidden="true">
        …
      </span>{' '}
      {keys && <Keys shortcut={keys} />}
    </Button>
  )
}

function ThemeButton() {
  return (
    <ActionButton action="theme.toggle" kind="ghost" size="icon" aria-label="Switch theme">
      <svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">
        <circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" strokeWidth="1.6" />
        <path d="M8 1.8a6.2 6.2 0 0 1 0 12.4Z" fill="currentColor" />
      </svg>
    </ActionButton>
  )
}

const STATE_LABELS = {
  idle: 'Not connected',
  connecting: 'Connecting',
  connected: 'Connected',
  offline: 'Offline',
  closed: 'Closed',
} as const

function ConnectionStatus() {
  const { state } = useConnection()
  const { data } = useQuery(statusQuery(useBridge()))
  const databaseDown = state === 'connected' && data?.database.ok === false
  const text = databaseDown ? 'Database unavailable' : STATE_LABELS[state]
  return (
    <span className={cx(css.light, css[databaseDown ? 'offline' : state])} role="status">
      {text}
    </span>
  )
}

/** Shows that the connection is lost, when the next attempt starts, and the queued requests. */
function OfflineBar() {
  const { state, retryAt, waiting } = useConnection()
  const seconds = useSecondsUntil(state === 'offline' ? retryAt : null)
  if (state !== 'offline') return null
  return (
    <div className={css.offlineBar} role="alert">
      <span>
        <strong>Server unreachable.</strong> The page shows the last known state.{' '}
        {waiting.length > 0 &&
          `${waiting.length} queued: ${waiting.map(({ label }) => label).join(', ')}. `}
        <span aria-hidden="true">{seconds > 0 ? `Retrying in ${seconds} s.` : 'Retrying…'}</span>
      </span>
      <ActionButton action="session.reconnect" size="small" />
    </div>
  )
}

function useSecondsUntil(time: number | null): number {
  const [now, setNow] = useState(Date.now)
  useEffect(() => {
    if (time === null) return
    setNow(Date.now())
    const timer = setInterval(() => setNow(Date.now()), 500)
    return () => clearInterval(timer)
  }, [time])
  return time === null ? 0 : Math.max(0, Math.ceil((time - now) / 1000))
}
