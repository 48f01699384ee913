import { type KeyboardEvent, useEffect, useId, useMemo, useRef, useState } from 'react'
import { recent } from '../shared/actions/recent'
import type { ActionDefinition, Refusal } from '../shared/actions/registry'
import { useShortcutOf } from '../shared/actions/shortcuts'
import { runAction, useRegistry } from '../shared/actions/useAction'
import { Dialog, Keys } from '../shared/ui'
import css from './dialogs.module.css'
import { open, useOpen } from './open'
import { type Found, type Group, groups } from './paletteSearch'

/** All actions, found by a few letters and run by Enter. */
export function Palette() {
  const opened = useOpen() === 'palette'
  return (
    <Dialog open={opened} onOpenChange={() => open(null)} title="Command palette" hideTitle bare>
      <Search />
    </Dialog>
  )
}

function Search() {
  const id = useId()
  const registry = useRegistry()
  const [query, setQuery] = useState('')
  const [at, setAt] = useState(0)
  const refusal = useRef(registry.refusal.bind(registry))
  // The order stays as it was when the palette was opened; only the letters change it.
  const found = useMemo(
    () => groups(query, recent.names(), (name) => refusal.current(name)),
    [query],
  )
  const flat = found.flatMap(({ items }) => items)
  const chosen = Math.min(at, flat.length - 1)
  const choose = (item: Found | undefined) => {
    if (!item || registry.refusal(item.action.name)) return
    open(null)
    // After the dialog has given the focus back.
    setTimeout(() => void runAction(item.action.name), 0)
  }
  const onKey = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key]
    if (step) setAt(Math.min(flat.length - 1, Math.max(0, chosen + step)))
    else if (event.key === 'Enter') choose(flat[chosen])
    else return
    event.preventDefault()
  }
  return (
    <>
      <input
        className={css.search}
        role="combobox"
        aria-expanded="true"
        aria-controls={`${id}-list`}
        aria-activedescendant={flat[chosen] && `${id}-${flat[chosen].action.id}`}
        aria-label="Find an action"
        placeholder="Find an action"
        autoComplete="off"
        spellCheck={false}
        value={query}
        onChange={(event) => {
          setQuery(event.target.value)
          setAt(0)
        }}
        onKeyDown={onKey}
      />
      <div id={`${id}-list`} role="listbox" aria-label="Actions" className={css.list}>
        {found.map((group) => (
          <GroupOfItems
            key={group.title}
            group={group}
            id={id}
            chosen={flat[chosen]}
            onChoose={choose}
          />
        ))}
        {flat.length === 0 && <p className={css.none}>No action is called that.</p>}
      </div>
      <div className={css.foot}>
        <span>
          <Keys shortcut="ArrowUp ArrowDown" /> choose
        </span>
        <span>
          <Keys shortcut="Enter" /> run
        </span>
        <span>
          <Keys shortcut="Escape" /> close
        </span>
      </div>
    </>
  )
}

interface GroupProps {
  group: Group
  id: string
  chosen: Found | undefined
  onChoose: (item: Found) => void
}

function GroupOfItems({ group, id, chosen, onChoose }: GroupProps) {
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset is no group of options
    <div role="group" aria-label={group.title}>
      <div className={css.group} aria-hidden="true">
        {group.title}
      </div>
      {group.items.map((item) => (
        <Item
          key={item.action.id}
          id={id}
          item={item}
          chosen={item === chosen}
          onChoose={onChoose}
        />
      ))}
    </div>
  )
}

interface ItemProps {
  id: string
  item: Found
  chosen: boolean
  onChoose: (item: Found) => void
}

const WHY: Record<Refusal, (action: ActionDefinition) => string> = {
  unknown: () => 'Not known here',
  elsewhere: ({ contexts }) => `In ${contexts.join(' and ')} only`,
  unbound: () => 'Not in this view',
  'not now': () => 'Not possible at the moment',
}

function Item({ id, item, chosen, onChoose }: ItemProps) {
  const { action, pieces } = item
  const element = useRef<HTMLDivElement>(null)
  const registry = useRegistry()
  const keys = useShortcutOf(action.name)
  const refusal = registry.refusal(action.name)
  useEffect(() => {
    if (chosen) element.current?.scrollIntoView({ block: 'nearest' })
  }, [chosen])
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: keys go to the field above
    // biome-ignore lint/a11y/useFocusableInteractive: the focus stays in the field above
    <div
      ref={element}
      id={`${id}-${action.id}`}
      role="option"
      aria-selected={chosen}
      aria-disabled={refusal !== null}
      className={css.item}
      onClick={() => onChoose(item)}
    >
      <span>{pieces.map(({ at, text, hit }) => (hit ? <b key={at}>{text}</b> : text))}</span>
      {keys && <Keys shortcut={keys} />}
      <span className={css.why}>{refusal ? WHY[refusal](action) : action.description}</span>
    </div>
  )
}
