import { useMemo, useState } from 'react'
import {
  ACTIONS,
  type ActionDefinition,
  type ActionName,
  actionByName,
  type HistoryEntry,
} from '@/shared/actions/registry'
import { shortcuts, useShortcutOf } from '@/shared/actions/shortcuts'
import { runAction, useAction, useRegistry } from '@/shared/actions/useAction'
import { ActionButton, Button, EmptyState, Keys } from '@/shared/ui'
import { param, useUrlState } from '@/shared/url'
import css from './actions.module.css'
import { RebindDialog } from './RebindDialog'

const schema = { find: param.text() }

/** The table of actions, where shortcuts are changed, and the undo history. */
export default function ActionsView() {
  const [{ find }, set] = useUrlState(schema)
  const [rebinding, setRebinding] = useState<ActionDefinition | null>(null)
  useAction('actions.search', ({ query }) => set({ find: query }))
  const groups = useMemo(() => grouped(find), [find])
  return (
    <div className={css.view}>
      <header className={css.head}>
        <h1>Actions</h1>
        <p className="quiet">
          Every action of the studio. Hosts refer to an action by its number.{' '}
          <code>GET /api/actions</code> returns this table.
        </p>
        <input
          type="search"
          className={css.find}
          aria-label="Filter actions"
          placeholder="Filter by title, name, number or shortcut"
          value={find}
          onChange={(event) => void runAction('actions.search', { query: event.target.value })}
        />
        <ActionButton action="shortcuts.reset" />
      </header>
      <div className={css.columns}>
        <div className={css.tables}>
          {groups.map(([category, actions]) => (
            <Category key={category} title={category} actions={actions} onRebind={setRebinding} />
          ))}
          {groups.length === 0 && (
            <EmptyState
              title={`No actions match “${find}”`}
              actions={<Button onClick={() => set({ find: '' })}>Clear filter</Button>}
            />
          )}
        </div>
        <History />
      </div>
      <RebindDialog action={rebinding} onClose={() => setRebinding(null)} />
    </div>
  )
}

/** Return the actions that contain every word of `find`, by category. */
function grouped(find: string): [string, ActionDefinition[]][] {
  const words = find.toLowerCase().split(/\s+/).filter(Boolean)
  const matches = ({ id, name, title, description, category }: ActionDefinition) => {
    const keys = shortcuts.of(name) ?? ''
    const text = `${id} ${name} ${title} ${description} ${category} ${keys}`.toLowerCase()
    return words.every((word) => text.includes(word))
  }
  const groups = new Map<string, ActionDefinition[]>()
  for (const action of ACTIONS.filter(matches)) {
    groups.set(action.category, [...(groups.get(action.category) ?? []), action])
  }
  return [...groups]
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
            <th scope="col">Available in</th>
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
        {contexts.includes('all') ? 'all views' : contexts.join(', ')}
        {undoable && <span className={css.undoable}>undoable</span>}
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
      <span className="hidden-text">Change shortcut of {action.title} </span>
      {keys ? <Keys shortcut={keys} /> : <span className="quiet">none</span>}
      {changed && <span className={css.changed}>changed</span>}
    </Button>
  )
}

/** The undo and redo stacks, the next step first. */
function History() {
  const registry = useRegistry()
  return (
    <aside className={css.history} aria-label="History">
      <header className={css.historyHead}>
        <h2>History</h2>
        <ActionButton action="history.undo" kind="ghost" size="small" />
        <ActionButton action="history.redo" kind="ghost" size="small" />
      </header>
      <Steps title="Undo" steps={registry.undoStack} />
      <Steps title="Redo" steps={registry.redoStack} />
    </aside>
  )
}

const MAX_STEPS = 12

function Steps({ title, steps }: { title: string; steps: readonly HistoryEntry[] }) {
  const newest = steps.slice(-MAX_STEPS).reverse()
  return (
    <>
      <h3>{title}</h3>
      {newest.length === 0 && <p className="quiet">Empty</p>}
      <ol>
        {newest.map((step, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a step has no identity but its position
          <li key={index}>
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
