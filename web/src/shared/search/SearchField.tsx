import { type KeyboardEvent, useEffect, useRef, useState } from 'react'
import { useShortcutOf } from '../actions/shortcuts'
import { runAction, useAction } from '../actions/useAction'
import type { Mode } from '../bridge/codetteBridge'
import { Keys } from '../ui'
import css from './searchField.module.css'
import { MODES } from './state'

const DEBOUNCE_MS = 140
const LABEL = 'What do you want to know?'
const MODE_NAMES: Record<Mode, string> = {
  hybrid: 'Hybrid',
  semantic: 'Meaning',
  keyword: 'Keywords',
}

interface SearchFieldProps {
  value: string
  mode: Mode
  /** Called on Enter, after the field lost the focus. */
  onEnter: () => void
}

/** The search field and the search mode. */
export function SearchField({ value, mode, onEnter }: SearchFieldProps) {
  const field = useRef<HTMLInputElement>(null)
  const [text, setText, flush] = useDebouncedQuery(value)
  const keys = useShortcutOf('search.focus')
  useAction('search.focus', () => {
    field.current?.focus()
    field.current?.select()
  })
  const onKey = (event: KeyboardEvent<HTMLInputElement>) => {
    if (event.key === 'ArrowDown') void runAction('results.next')
    else if (event.key === 'ArrowUp') void runAction('results.previous')
    else if (event.key === 'Enter') {
      flush()
      field.current?.blur()
      onEnter()
    } else if (event.key === 'Escape') field.current?.blur()
    else return
    event.preventDefault()
  }
  return (
    <search className={css.search}>
      <div className={css.fieldBox}>
        <input
          ref={field}
          type="search"
          className={css.field}
          aria-label={LABEL}
          placeholder={LABEL}
          autoComplete="off"
          spellCheck={false}
          maxLength={2000}
          value={text}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={onKey}
        />
        {keys && text === '' && <Keys shortcut={keys} />}
      </div>
      <ModeChoice mode={mode} />
    </search>
  )
}

function ModeChoice({ mode: selected }: { mode: Mode }) {
  return (
    <fieldset className={css.modes}>
      <legend className="hidden-text">Rank by</legend>
      {MODES.map((mode) => (
        <label key={mode} className={css.mode}>
          <input
            type="radio"
            name="mode"
            checked={mode === selected}
            onChange={() => void runAction('search.setMode', { mode })}
          />
          <span>{MODE_NAMES[mode]}</span>
        </label>
      ))}
    </fieldset>
  )
}

/**
 * Return the text of the field, its setter, and a function that sends a pending query immediately.
 * Typing changes the text immediately and the query after a pause. Any other change of the query
 * replaces the text.
 */
function useDebouncedQuery(query: string): [string, (text: string) => void, () => void] {
  const [text, setText] = useState(query)
  const sent = useRef(query)
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined)
  useEffect(() => {
    // While the user types, the pending text replaces the query.
    if (query === sent.current || timer.current !== undefined) return
    sent.current = query
    setText(query)
  }, [query])
  useEffect(() => () => clearTimeout(timer.current), [])
  const send = (typed: string) => {
    clearTimeout(timer.current)
    timer.current = undefined
    sent.current = typed
    void runAction('search.setQuery', { query: typed })
  }
  const type = (typed: string) => {
    setText(typed)
    clearTimeout(timer.current)
    timer.current = setTimeout(() => send(typed), DEBOUNCE_MS)
  }
  const flush = () => timer.current !== undefined && send(text)
  return [text, type, flush]
}
