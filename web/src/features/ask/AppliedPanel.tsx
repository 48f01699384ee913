import { useConnection } from '@/shared/bridge/context'
import {
  type Applied,
  type AppliedState,
  hostNames,
  useApplied,
} from '@/shared/suggestions/applied'
import { ActionButton } from '@/shared/ui'
import css from './ask.module.css'

const STATE_LABELS: Record<AppliedState, string> = {
  waiting: 'waiting for the server',
  sent: 'sent',
  copied: 'copied, no host connected',
  hostless: 'waiting for a host',
  unsure: 'connection lost, may have been sent',
}

const time = new Intl.DateTimeFormat('en', {
  hour: '2-digit',
  minute: '2-digit',
  hour12: false,
  timeZoneName: 'short',
})

/** The suggestions applied in this tab, newest first. */
export function AppliedPanel() {
  const applied = useApplied()
  return (
    <aside className={css.applied} aria-label="Applied">
      <header className={css.appliedHead}>
        <h2>Applied</h2>
        <ActionButton action="history.undo" kind="ghost" size="small" />
        <ActionButton action="history.redo" kind="ghost" size="small" />
      </header>
      <Hosts />
      {applied.length === 0 ? (
        <p className="quiet">
          Nothing applied yet. Apply sends a suggestion’s parameters to the host, or copies them
          when no host is connected.
        </p>
      ) : (
        <ul className={css.appliedList}>
          {applied.map((entry) => (
            <Entry key={entry.key} entry={entry} />
          ))}
        </ul>
      )}
    </aside>
  )
}

function Hosts() {
  const { hosts, online } = useConnection()
  if (!online) return null
  return (
    <p className={css.hosts} data-testid="hosts">
      {hosts.length === 0
        ? 'No host connected'
        : `${hosts.length === 1 ? 'Host' : 'Hosts'}: ${hosts.join(', ')}`}
    </p>
  )
}

function Entry({ entry: { key, title, appliedAt, state, hosts } }: { entry: Applied }) {
  return (
    <li>
      <span>{title}</span>
      <span className="quiet">
        <span className="num">{time.format(appliedAt)}</span>{' '}
        {state === 'sent' ? `sent to ${hostNames(hosts)}` : STATE_LABELS[state]}
      </span>
      <ActionButton action="suggestion.revert" parameters={{ key }} kind="ghost" size="small">
        Revert
      </ActionButton>
    </li>
  )
}
