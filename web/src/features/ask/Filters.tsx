import { type KeyboardEvent, useEffect, useId, useState } from 'react'
import { runAction } from '@/shared/actions/useAction'
import { categoryVariable, spoken } from '@/shared/theme/categories'
import { ActionButton, Chip, Skeleton } from '@/shared/ui'
import css from './ask.module.css'
import { type AskState, GENRES, LARGEST_BPM, TRACKS } from './state'
import type { Facet } from './useAnswers'

interface FiltersProps {
  state: AskState
  /** Undefined while it is read. */
  facet: Facet | null | undefined
  categories: readonly string[]
}

/** What narrows the answers, and what they should suit. */
export function Filters({ state, facet, categories }: FiltersProps) {
  return (
    <aside className={css.filters} aria-label="Filters">
      <section className={css.filterGroup}>
        <h2>Working on</h2>
        <div className={css.contexts}>
          <ContextField label="Track" filter="track" value={state.track ?? ''} choices={TRACKS} />
          <ContextField label="Genre" filter="genre" value={state.genre ?? ''} choices={GENRES} />
          <ContextField
            label="Tempo"
            unit="bpm"
            filter="bpm"
            value={state.bpm === null ? '' : String(state.bpm)}
          />
        </div>
      </section>
      {facet === undefined && (
        <div aria-busy="true">
          <span className="hidden-text">Reading the categories</span>
          <Skeleton height={32} />
        </div>
      )}
      {facet && (
        <section className={css.filterGroup}>
          <h2>{spoken(facet.column)}</h2>
          <div className={css.chips}>
            {facet.values.map(({ value, count }) => (
              <Chip
                key={value}
                colour={categoryVariable(value, categories)}
                count={count}
                pressed={state.category === value}
                onClick={() => toggle(value, state.category)}
              >
                {spoken(value)}
              </Chip>
            ))}
          </div>
        </section>
      )}
      <ActionButton action="search.clear" kind="ghost" size="small" className={css.clear}>
        Clear everything
      </ActionButton>
    </aside>
  )
}

function toggle(value: string, present: string | null): void {
  void runAction('search.setFilter', {
    filter: 'category',
    value: value === present ? null : value,
  })
}

interface ContextFieldProps {
  label: string
  filter: 'track' | 'genre' | 'bpm'
  value: string
  unit?: string
  choices?: readonly string[]
}

function ContextField({ label, filter, value, unit, choices }: ContextFieldProps) {
  const id = useId()
  const [text, setText] = useState(value)
  useEffect(() => setText(value), [value])
  const commit = (typed: string) => {
    if (typed.trim() !== value)
      void runAction('search.setFilter', { filter, value: typed.trim() || null })
  }
  const onKey = (event: KeyboardEvent<HTMLInputElement>) => {
    if (event.key === 'Enter') commit(text)
    if (event.key === 'Escape') setText(value)
  }
  const onType = (typed: string) => {
    setText(typed)
    // A choice from the list is a decision; letters are not one yet.
    if (choices?.includes(typed) || typed === '') commit(typed)
  }
  return (
    <div className={css.context}>
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        value={text}
        list={choices && `${id}-choices`}
        placeholder={unit ?? 'any'}
        autoComplete="off"
        {...(filter === 'bpm' && {
          type: 'number',
          min: 1,
          max: LARGEST_BPM,
          inputMode: 'decimal',
        })}
        onChange={(event) => onType(event.target.value)}
        onBlur={() => commit(text)}
        onKeyDown={onKey}
      />
      {choices && (
        <datalist id={`${id}-choices`}>
          {choices.map((choice) => (
            <option key={choice} value={choice} />
          ))}
        </datalist>
      )}
    </div>
  )
}
