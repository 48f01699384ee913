import { useMemo, useState } from 'react'
import {
  ACTIONS,
  type ActionDefinition,
  type ActionName,
  actionByName,
  type Done,
} from '@/shared/actions/registry'
import { shortcuts, useShortcutOf } from '@/shared/actions/shortcuts'
import { runAction, useAction, useRegistry } from '@/shared/actions/useAction'
import { ActionButton, Button, EmptyState, Keys } from '@/shared/ui'
import { param, useUrlState } from '@/shared/url'
import css from './actions.module.css'
import { RebindDialog } from './RebindDialog'

const schema = { find: param.text() }

/** Every action with its number, its shortcut, and the way to another shortcut. */
export default function ActionsView() {
  const [{ find }, set] = useUrlState(schema)
  const [rebinding, rebind] = useState<ActionDefinition | null>(null)
  useAction('actions.search', ({ query }) => set({ find: query }))
  const groups = useMemo(() => grouped(find), [find])
  return (
    <div className={css.view}>
      <header className={css.head}>
        <h1>Actions</h1>
        <p className="quiet">
          Everything that the studio does. Hosts name an action by its number;{' '}
          <code>GET /api/actions</code> lists the same table.
        </p>
        <input
          type="search"
          className={css.find}
          aria-label="Filter the table"
          placeholder="Filter by title, name, number or key"
          value={find}
          onChange={(event) => void runAction('actions.search', { query: event.target.value })}
        />
        <ActionButton action="shortcuts.reset" />
      </header>
      <div className={css.columns}>
        <div className={css.tables}>
          {groups.map(([category, actions]) => (
            <Category key={category} title={category} actions={actions} onRebind={rebind} />
          ))}
          {groups.length === 0 && (
            <EmptyState
              title={`No action for “${find}”`}
              actions={<Button onClick={() => set({ find: '' })}>Show all</Button>}
            />
          )}
        </div>
        <History />
      </div>
      <RebindDialog action={rebinding} onClose={() => rebind(null)} />
    </div>
  )
}

function grouped(find: string): [string, ActionDefinition[]][] {
  const words = find.toLowerCase().split(/\s+/).filter(Boolean)
  const fits = ({ id, name, title, description, category }: ActionDefinition) => {
    const keys = shortcuts.of(name) ?? ''
    const text = `${id} ${name} ${title} ${description} ${category} ${keys}`.toLowerCase()
    return words.every((word) => text.includes(word))
  }
  const found = new Map<string, ActionDefinition[]>()
  for (const action of ACTIONS.filter(fits)) {
    found.set(action.category, [...(found.get(action.category) ?? []), action])
  }
  return [...found]
}

interface CategoryProps {
  title: string
  actions: readonly ActionDefinition[]
  onRebind: (action: ActionDefinition) => void
}

function Category({ title, actions, onRebind }: CategoryProps) {
  return (
    <section className={css.category}>
      <h2>{title}</h2>
      <table className={css.table}>
        <thead className="hidden-text">
          <tr>
            <th scope="col">Number</th>
            <th scope="col">Action</th>
            <th scope="col">Where</th>
            <th scope="col">Shortcut</th>
            <th scope="col">Run</th>
          </tr>
        </thead>
        <tbody>
          {actions.map((action) => (
            <Row key={action.id} action={action} onRebind={onRebind} />
          ))}
        </tbody>
      </table>
    </section>
  )
}

function Row({
  action,
  onRebind,
}: {
  action: ActionDefinition
  onRebind: (action: ActionDefinition) => void
}) {
  const { id, name, title, description, contexts, undoable, palette } = action
  return (
    <tr>
      <td className={css.id}>{id}</td>
      <td className={css.what}>
        <strong>{title}</strong> <code className={css.name}>{name}</code>
        <p className="quiet">{description}</p>
      </td>
      <td className={css.where}>
        {contexts.includes('all') ? 'everywhere' : contexts.join(', ')}
        {undoable && <span className={css.undoable}>can be undone</span>}
      </td>
      <td className={css.keys}>{palette && <Shortcut action={action} onRebind={onRebind} />}</td>
      <td className={css.run}>
        {palette && (
          <ActionButton action={name} size="small" kind="ghost" aria-label={`Run ${title}`}>
            Run
          </ActionButton>
        )}
      </td>
    </tr>
  )
}

function Shortcut({
  action,
  onRebind,
}: {
  action: ActionDefinition
  onRebind: (action: ActionDefinition) => void
}) {
  const keys = useShortcutOf(action.name)
  const changed = keys !== action.shortcut
  return (
    <Button size="small" kind="ghost" className={css.shortcut} onClick={() => onRebind(action)}>
      <span className="hidden-text">Change the shortcut of {action.title} </span>
      {keys ? <Keys shortcut={keys} /> : <span className="quiet">none</span>}
      {changed && <span className={css.changed}>changed</span>}
    </Button>
  )
}

/** What can be undone and done again, the next step first. */
function History() {
  const registry = useRegistry()
  return (
    <aside className={css.history} aria-label="History">
      <header className={css.historyHead}>
        <h2>History</h2>
        <ActionButton action="history.undo" kind="ghost" size="small" />
        <ActionButton action="history.redo" kind="ghost" size="small" />
      </header>
      <Steps title="To undo" steps={registry.done} />
      <Steps title="To do again" steps={registry.undone} />
    </aside>
  )
}

const SHOWN = 12

function Steps({ title, steps }: { title: string; steps: readonly Done[] }) {
  const newest = steps.slice(-SHOWN).reverse()
  return (
    <>
      <h3>{title}</h3>
      {newest.length === 0 && <p className="quiet">Nothing.</p>}
      <ol>
        {newest.map((step, at) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a step is its place on the stack
          <li key={at}>
            {actionByName.get(step.name)?.title}{' '}
            <span className="quiet">{detail(step.name, step.parameters)}</span>
          </li>
        ))}
      </ol>
    </>
  )
}

function detail(name: ActionName, parameters: Record<string, unknown>): string {
  if (name.startsWith('suggestion.')) return String(parameters.title ?? '')
  return Object.values(parameters)
    .filter((value) => typeof value === 'string')
    .join(', ')
}
