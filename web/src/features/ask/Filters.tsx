import { type KeyboardEvent, useEffect, useId, useState } from 'react'
import { runAction } from '@/shared/actions/useAction'
import { MAX_BPM, type SearchState } from '@/shared/search/state'
import type { Facet } from '@/shared/search/useAnswers'
import { categoryVariable, displayName } from '@/shared/theme/categories'
import { ActionButton, Chip, Skeleton } from '@/shared/ui'
import css from './ask.module.css'
import { GENRES, TRACKS } from './choices'

interface FiltersProps {
  state: SearchState
  /** Undefined while it loads. */
  facet: Facet | null | undefined
  categories: readonly string[]
}

/** The context and the category of a search. */
export function Filters({ state, facet, categories }: FiltersProps) {
  return (
    <aside className={css.filters} aria-label="Filters">
      <section className={css.filterGroup}>
        <h2>Context</h2>
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
          <span className="hidden-text">Loading categories</span>
          <Skeleton height={32} />
        </div>
      )}
      {facet && <Categories facet={facet} selected={state.category} categories={categories} />}
      <ActionButton action="search.clear" kind="ghost" size="small" className={css.clear}>
        Clear all
      </ActionButton>
    </aside>
  )
}

interface CategoriesProps {
  facet: Facet
  selected: string | null
  categories: readonly string[]
}

function Categories({ facet, selected, categories }: CategoriesProps) {
  const toggle = (value: string) =>
    void runAction('search.setFilter', {
      filter: 'category',
      value: value === selected ? null : value,
    })
  return (
    <section className={css.filterGroup}>
      <h2>{displayName(facet.column)}</h2>
      <div className={css.chips}>
        {facet.values.map(({ value, count }) => (
          <Chip
            key={value}
            colour={categoryVariable(value, categories)}
            count={count}
            pressed={selected === value}
            onClick={() => toggle(value)}
          >
            {displayName(value)}
          </Chip>
        ))}
      </div>
    </section>
  )
}

interface ContextFieldProps {
  label: string
  filter: 'track' | 'genre' | 'bpm'
  value: string
  unit?: string
  choices?: readonly string[]
}

const NUMBER_INPUT = { type: 'number', min: 1, max: MAX_BPM, inputMode: 'decimal' } as const

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
    // Other text may be incomplete, so it is applied on Enter or blur.
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
        {...(filter === 'bpm' && NUMBER_INPUT)}
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
