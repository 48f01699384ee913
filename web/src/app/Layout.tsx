import { useQuery } from '@tanstack/react-query'
import { type ReactNode, useEffect, useState } from 'react'
import { Link, useLocation, useSearch } from 'wouter'
import { useShortcutOf } from '../shared/actions/shortcuts'
import { runAction } from '../shared/actions/useAction'
import { statusQuery } from '../shared/api/queries'
import { useBridge, useConnection } from '../shared/bridge/context'
import { useCollection } from '../shared/collection'
import { ActionButton, Button, cx, Keys } from '../shared/ui'
import { addressOf, carried } from '../shared/url'
import css from './layout.module.css'
import { VIEWS, type View } from './views'

export function Layout({ children }: { children: ReactNode }) {
  return (
    <div className={css.page}>
      <a className={css.skip} href="#main">
        Skip to the content
      </a>
      <header className={css.bar}>
        <span className={css.brand}>Backline</span>
        <Navigation />
        <div className={css.tools}>
          <CollectionChoice />
          <PaletteButton />
          <ThemeButton />
          <ConnectionLight />
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
  const [here] = useLocation()
  const search = useSearch()
  const current = here === path
  const href = current ? addressOf(path, search) : addressOf(path, carried(search))
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
        {all.map((each) => (
          <option key={each.name}>{each.name}</option>
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
      <span className={css.paletteSign} aria-hidden="true">
        …
      </span>{' '}
      {keys && <Keys shortcut={keys} />}
    </Button>
  )
}

function ThemeButton() {
  return (
    <ActionButton
      action="theme.toggle"
      kind="ghost"
      size="icon"
      aria-label="Switch between dark and light"
    >
      <svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">
        <circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" strokeWidth="1.6" />
        <path d="M8 1.8a6.2 6.2 0 0 1 0 12.4Z" fill="currentColor" />
      </svg>
    </ActionButton>
  )
}

const SAID = {
  idle: 'Not connected',
  connecting: 'Connecting',
  connected: 'Connected',
  offline: 'Offline',
  closed: 'Closed',
} as const

function ConnectionLight() {
  const { state } = useConnection()
  const { data } = useQuery(statusQuery(useBridge()))
  const databaseAway = state === 'connected' && data?.database.ok === false
  const text = databaseAway ? 'Database away' : SAID[state]
  return (
    <span className={cx(css.light, css[databaseAway ? 'offline' : state])} role="status">
      {text}
    </span>
  )
}

/** Says that the server is gone, when it is tried again, and what waits for it. */
function OfflineBar() {
  const { state, retryAt, waiting } = useConnection()
  const seconds = useSecondsTo(state === 'offline' ? retryAt : null)
  if (state !== 'offline') return null
  return (
    <div className={css.offlineBar} role="alert">
      <span>
        <strong>The server is not reached.</strong> What is on the page stays readable.{' '}
        {waiting.length > 0 &&
          `${waiting.length} waiting: ${waiting.map(({ label }) => label).join(', ')}. `}
        <span aria-hidden="true">{seconds > 0 ? `Next try in ${seconds} s.` : 'Trying now.'}</span>
      </span>
      <ActionButton action="session.reconnect" size="small" />
    </div>
  )
}

function useSecondsTo(moment: number | null): number {
  const [now, setNow] = useState(Date.now)
  useEffect(() => {
    if (moment === null) return
    setNow(Date.now())
    const timer = setInterval(() => setNow(Date.now()), 500)
    return () => clearInterval(timer)
  }, [moment])
  return moment === null ? 0 : Math.max(0, Math.ceil((moment - now) / 1000))
}
