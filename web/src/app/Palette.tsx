import { type KeyboardEvent, useEffect, useId, useMemo, useRef, useState } from 'react'
import { recent } from '@/shared/actions/recent'
import type { ActionDefinition, Refusal } from '@/shared/actions/registry'
import { useShortcutOf } from '@/shared/actions/shortcuts'
import { runAction, useRegistry } from '@/shared/actions/useAction'
import { Dialog, Keys } from '@/shared/ui'
import { openDialog, useOpenDialog } from './dialogs'
import css from './dialogs.module.css'
import { type Group, groups, type PaletteItem } from './paletteSearch'

/** The command palette: searches the actions and runs one. */
export function Palette() {
  const isOpen = useOpenDialog() === 'palette'
  return (
    <Dialog
      open={isOpen}
      onOpenChange={() => openDialog(null)}
      title="Command palette"
      hideTitle
      bare
    >
      <Search />
    </Dialog>
  )
}

function Search() {
  const id = useId()
  const [query, setQuery] = useState('')
  const [index, setIndex] = useState(0)
  const registry = useRegistry()
  const results = useResults(query)
  const items = results.flatMap((group) => group.items)
  const last = items.length - 1
  const selectedIndex = Math.min(index, last)
  const selected = items[selectedIndex]
  const choose = (item: PaletteItem | undefined) => {
    if (!item || registry.refusal(item.action.name)) return
    openDialog(null)
    // Run the action after the dialog has restored the focus.
    setTimeout(() => void runAction(item.action.name), 0)
  }
  const onKey = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key]
    if (step) setIndex(Math.min(last, Math.max(0, selectedIndex + step)))
    else if (event.key === 'Enter') choose(selected)
    else return
    event.preventDefault()
  }
  const onQuery = (text: string) => {
    setQuery(text)
    setIndex(0)
  }
  return (
    <>
      <input
        className={css.search}
        role="combobox"
        aria-expanded="true"
        aria-controls={`${id}-list`}
        aria-activedescendant={selected && `${id}-${selected.action.id}`}
        aria-label="Search actions"
        placeholder="Search actions…"
        autoComplete="off"
        spellCheck={false}
        value={query}
        onChange={(event) => onQuery(event.target.value)}
        onKeyDown={onKey}
      />
      <div id={`${id}-list`} role="listbox" aria-label="Actions" className={css.list}>
        {results.map((group) => (
          <GroupOfItems
            key={group.title}
            group={group}
            id={id}
            selected={selected}
            onChoose={choose}
          />
        ))}
        {items.length === 0 && <p className={css.none}>No matching actions</p>}
      </div>
      <Help />
    </>
  )
}

/**
 * Return the groups for a query. Only the query changes the order, not the state of the actions.
 */
function useResults(query: string): Group[] {
  const registry = useRegistry()
  const refusal = useRef(registry.refusal.bind(registry))
  return useMemo(() => groups(query, recent.names(), (name) => refusal.current(name)), [query])
}

function Help() {
  return (
    <div className={css.foot}>
      <span>
        <Keys shortcut="ArrowUp ArrowDown" /> select
      </span>
      <span>
        <Keys shortcut="Enter" /> run
      </span>
      <span>
        <Keys shortcut="Escape" /> close
      </span>
    </div>
  )
}

interface GroupProps {
  group: Group
  id: string
  selected: PaletteItem | undefined
  onChoose: (item: PaletteItem) => void
}

function GroupOfItems({ group, id, selected, onChoose }: GroupProps) {
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset cannot group options
    <div role="group" aria-label={group.title}>
      <div className={css.group} aria-hidden="true">
        {group.title}
      </div>
      {group.items.map((item) => (
        <Item
          key={item.action.id}
          id={id}
          item={item}
          selected={item === selected}
          onChoose={onChoose}
        />
      ))}
    </div>
  )
}

interface ItemProps {
  id: string
  item: PaletteItem
  selected: boolean
  onChoose: (item: PaletteItem) => void
}

const REFUSAL_LABELS: Record<Refusal, (action: ActionDefinition) => string> = {
  unknown: () => 'Unknown action',
  'other view': ({ contexts }) => `Only in ${contexts.join(' and ')}`,
  unbound: () => 'Not available in this view',
  disabled: () => 'Not available now',
}

function Item({ id, item, selected, onChoose }: ItemProps) {
  const { action, pieces } = item
  const element = useRef<HTMLDivElement>(null)
  const registry = useRegistry()
  const keys = useShortcutOf(action.name)
  const refusal = registry.refusal(action.name)
  useEffect(() => {
    if (selected) element.current?.scrollIntoView({ block: 'nearest' })
  }, [selected])
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: the search field handles the keys
    // biome-ignore lint/a11y/useFocusableInteractive: the focus stays in the search field
    <div
      ref={element}
      id={`${id}-${action.id}`}
      role="option"
      aria-selected={selected}
      aria-disabled={refusal !== null}
      className={css.item}
      onClick={() => onChoose(item)}
    >
      <span>
        {pieces.map(({ start, text, matched }) => (matched ? <b key={start}>{text}</b> : text))}
      </span>
      {keys && <Keys shortcut={keys} />}
      <span className={css.detail}>
        {refusal ? REFUSAL_LABELS[refusal](action) : action.description}
      </span>
    </div>
  )
}
