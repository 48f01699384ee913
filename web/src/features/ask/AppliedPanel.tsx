import { useQuery } from '@tanstack/react-query'
import { statusQuery } from '@/shared/api/queries'
import { useBridge } from '@/shared/bridge/context'
import { ActionButton } from '@/shared/ui'
import { type AppliedState, clients, useApplied } from './applied'
import css from './ask.module.css'

const SAID: Record<AppliedState, string> = {
  waiting: 'waits for the server',
  sent: 'sent',
  copied: 'copied, no host',
  unheard: 'no host heard it',
  unsure: 'perhaps sent: the connection broke',
}

const time = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', hour12: false })

/** What was applied in this tab, the newest first. */
export function AppliedPanel() {
  const applied = useApplied()
  const { data } = useQuery(statusQuery(useBridge()))
  const others = Math.max(0, (data?.clients ?? 0) - 1)
  return (
    <aside className={css.applied} aria-label="Applied">
      <header className={css.appliedHead}>
        <h2>Applied</h2>
        <ActionButton action="history.undo" kind="ghost" size="small" />
        <ActionButton action="history.redo" kind="ghost" size="small" />
      </header>
      {applied.length === 0 ? (
        <p className="quiet">
          Nothing yet. Apply sends a suggestion’s parameters to the host, or copies them where there
          is none.
          {others > 0 &&
            ` ${others} other ${others === 1 ? 'client is' : 'clients are'} connected.`}
        </p>
      ) : (
        <ul className={css.appliedList}>
          {applied.map(({ key, title, at, state, delivered }) => (
            <li key={key}>
              <span>{title}</span>
              <span className="quiet">
                <span className="num">{time.format(at)}</span>{' '}
                {state === 'sent' ? `sent to ${clients(delivered)}` : SAID[state]}
              </span>
              <ActionButton
                action="suggestion.revert"
                parameters={{ key }}
                kind="ghost"
                size="small"
              >
                Take back
              </ActionButton>
            </li>
          ))}
        </ul>
      )}
    </aside>
  )
}
