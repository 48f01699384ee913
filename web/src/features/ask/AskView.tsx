import { useCallback, useMemo, useRef } from 'react'
import { SearchField } from '@/shared/search/SearchField'
import { searchSchema } from '@/shared/search/state'
import { useAnswers, useFacet } from '@/shared/search/useAnswers'
import {
  useResultActions,
  useSearchActions,
  useSearchFacts,
} from '@/shared/search/useSearchActions'
import { sortedCategories } from '@/shared/theme/categories'
import { useUrlState } from '@/shared/url'
import { AppliedPanel } from './AppliedPanel'
import css from './ask.module.css'
import { Filters } from './Filters'
import { Results } from './Results'

/** Search, results, and the applied suggestions. */
export default function AskView() {
  const [state, set] = useUrlState(searchSchema)
  const facet = useFacet()
  const answers = useAnswers(state, facet)
  const { list } = answers
  const selected = list.find(({ key }) => key === state.key) ?? list[0]
  const focus = useFocusResult()
  useSearchActions(state, set)
  useResultActions(list, selected, set, focus)
  useSearchFacts(state, answers, selected)
  const categories = useMemo(
    () => sortedCategories(facet?.values.map(({ value }) => value) ?? []),
    [facet],
  )
  return (
    <div className={css.ask}>
      <h1 className="hidden-text">Ask</h1>
      <SearchField
        value={state.q}
        mode={state.mode}
        onEnter={() => selected && focus(selected.key)}
      />
      <Filters state={state} facet={facet} categories={categories} />
      <Results state={state} answers={answers} selected={selected} categories={categories} />
      <AppliedPanel />
    </div>
  )
}

/**
 * Return a function that focuses the card of a result, unless an input has the focus. It waits for
 * the next frame, when the card is marked as selected. A later call in the same frame replaces an
 * earlier one, because focusing a card selects it.
 */
function useFocusResult(): (key: string) => void {
  const frame = useRef(0)
  return useCallback((key: string) => {
    cancelAnimationFrame(frame.current)
    frame.current = requestAnimationFrame(() => {
      const card = document.getElementById(`result-${key}`)
      card?.scrollIntoView({ block: 'nearest' })
      if (!(document.activeElement instanceof HTMLInputElement))
        card?.focus({ preventScroll: true })
    })
  }, [])
}
