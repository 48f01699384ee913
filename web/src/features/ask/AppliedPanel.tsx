import { useConnection } from '@/shared/bridge/context'
import { ActionButton } from '@/shared/ui'
import { type AppliedState, named, useApplied } from './applied'
import css from './ask.module.css'

const SAID: Record<AppliedState, string> = {
  waiting: 'waits for the server',
  sent: 'sent',
  copied: 'copied, no host',
  hostless: 'waits for a host',
  unsure: 'perhaps sent: the connection broke',
}

const time = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', hour12: false })

/** What was applied in this tab, the newest first. */
export function AppliedPanel() {
  const applied = useApplied()
  const { hosts, online } = useConnection()
  return (
    <aside className={css.applied} aria-label="Applied">
      <header className={css.appliedHead}>
        <h2>Applied</h2>
        <ActionButton action="history.undo" kind="ghost" size="small" />
        <ActionButton action="history.redo" kind="ghost" size="small" />
      </header>
      {online && (
        <p className={css.hosts} data-testid="hosts">
          {hosts.length === 0
            ? 'No host is connected.'
            : `${hosts.length === 1 ? 'Host' : 'Hosts'}: ${hosts.join(', ')}`}
        </p>
      )}
      {applied.length === 0 ? (
        <p className="quiet">
          Nothing yet. Apply sends a suggestion’s parameters to the host, or copies them where there
          is none.
        </p>
      ) : (
        <ul className={css.appliedList}>
          {applied.map(({ key, title, at, state, hosts: taken }) => (
            <li key={key}>
              <span>{title}</span>
              <span className="quiet">
                <span className="num">{time.format(at)}</span>{' '}
                {state === 'sent' ? `sent to ${named(taken)}` : SAID[state]}
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
