import type { RefObject } from 'react'
import { runAction } from '@/shared/actions/useAction'
import { count } from '@/shared/format/numbers'
import { AnswerCard } from '@/shared/search/AnswerCard'
import type { Answer } from '@/shared/search/answers'
import type { SearchState } from '@/shared/search/state'
import type { Answers, Facet } from '@/shared/search/useAnswers'
import { displayName, sortedCategories } from '@/shared/theme/categories'
import { ActionButton, Button, ErrorState, Panel, Skeleton } from '@/shared/ui'
import type { Cloud } from './cloud'
import { Hits, InView } from './Lists'
import css from './map.module.css'

const MAX_LISTED = 60

interface SidebarProps {
  cloud: Cloud
  state: SearchState
  answers: Answers
  /** The selected hit. */
  answer: Answer | undefined
  facet: Facet | null | undefined
  inView: readonly number[]
  listRef: RefObject<HTMLElement | null>
}

/** The selected entry, the hits, and the entries in view. */
export function Sidebar({ cloud, state, answers, answer, facet, inView, listRef }: SidebarProps) {
  const selected = cloud.find(state.key)
  return (
    <div className={css.side}>
      {answer ? (
        <SelectedHit answer={answer} hits={answers.list} facet={facet} />
      ) : (
        selected >= 0 && <SelectedEntry cloud={cloud} index={selected} />
      )}
      {state.q.trim() !== '' && <HitsPanel answers={answers} selected={state.key} />}
      <Panel ref={listRef} title={`In view: ${count(inView.length)}`} className={css.listPanel}>
        <InView cloud={cloud} points={inView.slice(0, MAX_LISTED)} selected={state.key} />
        {inView.length > MAX_LISTED && (
          <p className={css.note}>
            The {MAX_LISTED} entries closest to the centre. Zoom in to list the others.
          </p>
        )}
      </Panel>
    </div>
  )
}

interface SelectedHitProps {
  answer: Answer
  hits: readonly Answer[]
  facet: Facet | null | undefined
}

function SelectedHit({ answer, hits, facet }: SelectedHitProps) {
  return (
    <ol className={css.selectedHit} data-testid="map-selected">
      <AnswerCard
        answer={answer}
        rank={hits.indexOf(answer) + 1}
        selected
        bestKeyword={Math.max(...hits.map(({ keyword }) => keyword ?? 0))}
        categories={sortedCategories(facet?.values.map(({ value }) => value) ?? [])}
      />
    </ol>
  )
}

function SelectedEntry({ cloud, index }: { cloud: Cloud; index: number }) {
  const title = cloud.title(index)
  return (
    <Panel title={title} className={css.selected}>
      <div className={css.selectedBody} data-testid="map-selected">
        <p className="quiet">{displayName(cloud.categoryOf(index))}</p>
        <Button size="small" onClick={() => void runAction('search.setQuery', { query: title })}>
          Find similar entries
        </Button>
      </div>
    </Panel>
  )
}

function HitsPanel({ answers, selected }: { answers: Answers; selected: string | null }) {
  return (
    <Panel title="Hits" className={css.listPanel} busy={answers.loading || answers.stale}>
      {answers.error ? (
        <ErrorState error={answers.error} onRetry={answers.retry} />
      ) : answers.loading ? (
        <Skeleton height={160} />
      ) : answers.hidden ? (
        <div className={css.selectedBody}>
          <p className="quiet">No relevant results.</p>
          <ActionButton action="search.nearest" size="small" />
        </div>
      ) : answers.list.length === 0 ? (
        <p className="quiet">No results.</p>
      ) : (
        <Hits hits={answers.list} selected={selected} />
      )}
    </Panel>
  )
}
