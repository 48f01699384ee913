import { useCallback, useMemo, useRef } from 'react'
import { inOrder } from '@/shared/theme/categories'
import { useUrlState } from '@/shared/url'
import { AppliedPanel } from './AppliedPanel'
import css from './ask.module.css'
import { Filters } from './Filters'
import { Results } from './Results'
import { SearchField } from './SearchField'
import { askSchema } from './state'
import { useAnswers, useFacet } from './useAnswers'
import { useAskFacts, useResultActions, useSearchActions } from './useAskActions'

/** One question, its answers, and what is done with them. */
export default function AskView() {
  const [state, set] = useUrlState(askSchema)
  const facet = useFacet()
  const answers = useAnswers(state, facet)
  const { list } = answers
  const selected = list.find(({ key }) => key === state.key) ?? list[0]
  const frame = useRef(0)
  const focus = useCallback((key: string) => {
    // After the result is marked as selected, and not out of the field where a person types. Of
    // several that are chosen within a frame, the last: to focus another would choose that again.
    cancelAnimationFrame(frame.current)
    frame.current = requestAnimationFrame(() => {
      const card = document.getElementById(`result-${key}`)
      card?.scrollIntoView({ block: 'nearest' })
      if (!(document.activeElement instanceof HTMLInputElement))
        card?.focus({ preventScroll: true })
    })
  }, [])
  useSearchActions(state, set)
  useResultActions(list, selected, set, focus)
  useAskFacts(state, answers, selected)
  const categories = useMemo(() => inOrder(facet?.values.map(({ value }) => value) ?? []), [facet])
  return (
    <div className={css.ask}>
      <h1 className="hidden-text">Ask</h1>
      <SearchField
        value={state.q}
        mode={state.mode}
        onDown={() => selected && focus(selected.key)}
      />
      <Filters state={state} facet={facet} categories={categories} />
      <Results state={state} answers={answers} selected={selected} categories={categories} />
      <AppliedPanel />
    </div>
  )
}
