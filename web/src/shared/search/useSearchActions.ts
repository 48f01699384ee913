/** The actions of a search: query, filters, and the selected result. */
import { useCallback } from 'react'
import { useLocation } from 'wouter'
import { NOTHING } from '../actions/registry'
import { useAction, useFacts } from '../actions/useAction'
import { basePath, currentPath } from '../base'
import { copyText } from '../clipboard'
import { parametersText, useApplied } from '../suggestions/applied'
import { useApplyActions } from '../suggestions/useApplyActions'
import { notify } from '../ui/Notices'
import { addressOf, type SetOptions, sharedQuery, writeState } from '../url'
import type { Answer } from './answers'
import { MAX_RESULTS, MODES, PAGE_SIZE, type SearchState, searchSchema } from './state'
import type { Answers } from './useAnswers'

type SetState = (changes: Partial<SearchState>, options?: SetOptions) => void

const NO_SEARCH = {
  q: '',
  category: null,
  track: null,
  genre: null,
  bpm: null,
  mode: 'hybrid',
} as const

/** Bind the actions of the search field and the filters. Undo restores the previous address. */
export function useSearchActions(state: SearchState, set: SetState): void {
  const [, navigate] = useLocation()
  const change = useCallback(
    (changes: Partial<SearchState>) => {
      const before = currentPath() + window.location.search
      set({ n: PAGE_SIZE, key: null, nearest: 'no', ...changes }, { push: true })
      return currentPath() + window.location.search === before ? NOTHING : before
    },
    [set],
  )
  const undo = (_: unknown, before: string | typeof NOTHING) => {
    if (typeof before === 'string') navigate(before)
  }
  useAction('search.setQuery', ({ query }) => {
    set({ q: query, key: null, n: PAGE_SIZE, nearest: 'no' })
  })
  useAction('search.setFilter', ({ filter, value }) => change(filterChange(filter, value)), {
    undo,
  })
  useAction('search.setMode', ({ mode }) => change({ mode }), { undo })
  useAction(
    'search.cycleMode',
    () => change({ mode: MODES[(MODES.indexOf(state.mode) + 1) % MODES.length] }),
    { undo },
  )
  useAction('search.clear', () => change(NO_SEARCH), { undo })
  useAction('search.nearest', () => set({ nearest: 'yes' }))
  useAction('search.more', () => {
    set({ n: Math.min(MAX_RESULTS, (state.n ?? PAGE_SIZE) + PAGE_SIZE) })
  })
}

function filterChange(
  filter: 'category' | 'track' | 'genre' | 'bpm',
  value: string | null,
): Partial<SearchState> {
  if (filter !== 'bpm') return { [filter]: value || null }
  const bpm = value ? Number(value) : null
  return { bpm: bpm !== null && Number.isFinite(bpm) ? bpm : null }
}

/** Bind the actions that select a result, and those that use the selected one. */
export function useResultActions(
  list: readonly Answer[],
  selected: Answer | undefined,
  set: SetState,
  focus: (key: string) => void,
): void {
  const [, navigate] = useLocation()
  const move = (step: number) => {
    const index = selected ? list.indexOf(selected) + step : 0
    const next = list[Math.min(list.length - 1, Math.max(0, index))]
    if (!next) return
    set({ key: next.key })
    focus(next.key)
  }
  useAction('results.next', () => move(1))
  useAction('results.previous', () => move(-1))
  useAction('results.select', ({ key }) => set({ key }))
  useAction('results.showOnMap', () => {
    navigate(addressOf('/map', sharedQuery(window.location.search)))
  })
  useAction('suggestion.copyLink', async ({ key = selected?.key }) => {
    const query = writeState(searchSchema, window.location.search, { key: key ?? null })
    await copyText(`${window.location.origin}${basePath}${addressOf('/ask', query)}`)
    notify('Link copied', 'ok')
  })
  useAction('suggestion.copy', async ({ key = selected?.key }) => {
    const answer = list.find((answer) => answer.key === key)
    if (!answer) return
    await copyText(parametersText(answer.parameters))
    notify(`Copied the parameters of “${answer.title}”`, 'ok')
  })
  useApplyActions(selected)
}

/** State the facts that enable the actions above. */
export function useSearchFacts(
  state: SearchState,
  { list, more, hidden }: Answers,
  selected: Answer | undefined,
): void {
  const isApplied = useApplied().some(({ key }) => key === selected?.key)
  const hasParameters = selected !== undefined && Object.keys(selected.parameters).length > 0
  const filtered = Boolean(
    state.category || state.track || state.genre || state.bpm || state.mode !== 'hybrid',
  )
  useFacts({
    'search.active': state.q !== '' || filtered,
    'results.any': list.length > 0,
    'results.hidden': hidden,
    'results.more': more && (state.n ?? PAGE_SIZE) < MAX_RESULTS,
    'result.selected': selected !== undefined,
    'result.parameters': hasParameters,
    'result.notApplied': hasParameters && !isApplied,
    'result.applied': isApplied,
  })
}
