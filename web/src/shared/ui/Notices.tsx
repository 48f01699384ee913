/** Short notices at the edge of the page, announced by screen readers. */
import { useSyncExternalStore } from 'react'
import type { ActionName } from '../actions/registry'
import { useFacts } from '../actions/useAction'
import { ActionButton, cx } from './index'
import css from './notices.module.css'

export interface Notice {
  id: number
  kind: 'info' | 'ok' | 'error'
  text: string
  action?: ActionName
}

const DURATION_MS = 6_000
const MAX_NOTICES = 3
let notices: readonly Notice[] = []
let nextId = 1
const listeners = new Set<() => void>()

function setNotices(changed: readonly Notice[]): void {
  notices = changed
  for (const listener of listeners) listener()
}

export function dismiss(id?: number): void {
  setNotices(id === undefined ? [] : notices.filter((notice) => notice.id !== id))
}

/** Show a notice. An error stays until it is dismissed, other notices disappear after 6 seconds. */
export function notify(text: string, kind: Notice['kind'] = 'info', action?: ActionName): void {
  const id = nextId++
  // Undo and redo apply to the last action, so an older notice must not offer them.
  const others = action ? notices.filter((notice) => notice.action === undefined) : notices
  setNotices([...others, { id, kind, text, action }].slice(-MAX_NOTICES))
  if (kind !== 'error') setTimeout(() => dismiss(id), DURATION_MS)
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

export function Notices() {
  const visible = useSyncExternalStore(subscribe, () => notices)
  useFacts({ 'notices.any': visible.length > 0 })
  return (
    <div className={css.notices} role="status" aria-live="polite">
      {visible.map(({ id, kind, text, action }) => (
        <div key={id} className={cx(css.notice, css[kind])}>
          <span>{text}</span>
          {action && (
            <ActionButton action={action} size="small">
              {action === 'history.undo' ? 'Undo' : undefined}
            </ActionButton>
          )}
          <button
            type="button"
            className={css.close}
            aria-label="Dismiss"
            onClick={() => dismiss(id)}
          >
            ×
          </button>
        </div>
      ))}
    </div>
  )
}
