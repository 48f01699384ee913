import { type KeyboardEvent, useEffect, useRef, useState } from 'react'
import { useShortcutOf } from '@/shared/actions/shortcuts'
import { runAction, useAction } from '@/shared/actions/useAction'
import type { Mode } from '@/shared/bridge/codetteBridge'
import { Keys } from '@/shared/ui'
import css from './ask.module.css'
import { MODES } from './state'

const SETTLES_MS = 140
const MODE_NAMES: Record<Mode, string> = { hybrid: 'Both', semantic: 'Meaning', keyword: 'Words' }

/** The question. What is typed is the question a moment after the last key. */
export function SearchField({
  value,
  mode,
  onDown,
}: {
  value: string
  mode: Mode
  onDown: () => void
}) {
  const field = useRef<HTMLInputElement>(null)
  const [text, setText, ask] = useTyped(value)
  const keys = useShortcutOf('search.focus')
  useAction('search.focus', () => {
    field.current?.focus()
    field.current?.select()
  })
  const onKey = (event: KeyboardEvent<HTMLInputElement>) => {
    if (event.key === 'ArrowDown') void runAction('results.next')
    else if (event.key === 'ArrowUp') void runAction('results.previous')
    else if (event.key === 'Enter') {
      ask()
      field.current?.blur()
      onDown()
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
          aria-label="What do you want to know?"
          placeholder="What do you want to know?"
          autoComplete="off"
          spellCheck={false}
          maxLength={2000}
          value={text}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={onKey}
        />
        {keys && text === '' && <Keys shortcut={keys} />}
      </div>
      <fieldset className={css.modes}>
        <legend className="hidden-text">Rank by</legend>
        {MODES.map((each) => (
          <label key={each} className={css.mode}>
            <input
              type="radio"
              name="mode"
              checked={mode === each}
              onChange={() => void runAction('search.setMode', { mode: each })}
            />
            <span>{MODE_NAMES[each]}</span>
          </label>
        ))}
      </fieldset>
    </search>
  )
}

/**
 * What stands in the field: what is typed at once, what the address says when that changes by itself.
 * The last function asks at once what was typed.
 */
function useTyped(value: string): [string, (text: string) => void, () => void] {
  const [text, setText] = useState(value)
  const sent = useRef(value)
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined)
  useEffect(() => {
    // What is being typed right now will be the question in a moment.
    if (value === sent.current || timer.current !== undefined) return
    sent.current = value
    setText(value)
  }, [value])
  useEffect(() => () => clearTimeout(timer.current), [])
  const type = (typed: string) => {
    setText(typed)
    clearTimeout(timer.current)
    timer.current = setTimeout(() => send(typed), SETTLES_MS)
  }
  const send = (typed: string) => {
    clearTimeout(timer.current)
    timer.current = undefined
    sent.current = typed
    void runAction('search.setQuery', { query: typed })
  }
  const ask = () => timer.current !== undefined && send(text)
  return [text, type, ask]
}
