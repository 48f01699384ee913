/** Short notices at the edge of the page, spoken by screen readers. */
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

const LASTS_MS = 6_000
const MOST = 3
let notices: readonly Notice[] = []
let next = 1
const listeners = new Set<() => void>()

function keep(changed: readonly Notice[]): void {
  notices = changed
  for (const listener of listeners) listener()
}

export function dismiss(id?: number): void {
  keep(id === undefined ? [] : notices.filter((notice) => notice.id !== id))
}

/** Say something. An error stays until it is dismissed; anything else goes by itself. */
export function notify(text: string, kind: Notice['kind'] = 'info', action?: ActionName): void {
  const id = next++
  // Undo and redo mean the last step: an older notice that offers them would mislead.
  const others = action ? notices.filter((notice) => notice.action === undefined) : notices
  keep([...others, { id, kind, text, action }].slice(-MOST))
  if (kind !== 'error') setTimeout(() => dismiss(id), LASTS_MS)
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

export function Notices() {
  const shown = useSyncExternalStore(subscribe, () => notices)
  useFacts({ 'notices.any': shown.length > 0 })
  return (
    <div className={css.notices} role="status" aria-live="polite">
      {shown.map(({ id, kind, text, action }) => (
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
