import { runAction } from '@/shared/actions/useAction'
import { useConnection } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { count, number } from '@/shared/format/numbers'
import { AnswerCard } from '@/shared/search/AnswerCard'
import type { Answer } from '@/shared/search/answers'
import type { SearchState } from '@/shared/search/state'
import type { Answers } from '@/shared/search/useAnswers'
import { displayName } from '@/shared/theme/categories'
import { ActionButton, Button, cx, EmptyState, ErrorState, Skeleton } from '@/shared/ui'
import css from './ask.module.css'

const EXAMPLES = [
  'my vocals sound muddy',
  'kick and bass fight each other',
  'the master is too quiet for streaming',
  'snare without punch',
  'wide guitars that survive mono',
  'chords for a melancholic chorus',
]
/** The collection that the examples refer to. */
const MUSIC = 'music_knowledge'

interface ResultsProps {
  state: SearchState
  answers: Answers
  selected: Answer | undefined
  categories: readonly string[]
}

export function Results(props: ResultsProps) {
  const { answers } = props
  return (
    <section
      className={css.results}
      aria-label="Results"
      aria-busy={answers.loading || answers.stale}
    >
      <Content {...props} />
    </section>
  )
}

function Content(props: ResultsProps) {
  const { state, answers } = props
  const { online } = useConnection()
  const { all, pending } = useCollection()
  const noCollection = !pending && !answers.error && all.length === 0
  if (answers.idle || noCollection) return <Start />
  if (answers.error && !online) return <Waiting query={state.q} />
  if (answers.error) return <ErrorState error={answers.error} onRetry={answers.retry} />
  if (answers.loading) return <Loading />
  if (answers.hidden) return <NothingRelevant query={state.q} />
  if (answers.list.length === 0) return <NoResults state={state} />
  return <List {...props} />
}

function List({ answers, selected, categories }: ResultsProps) {
  const { list, stale, tookMs, more } = answers
  const bestKeyword = Math.max(...list.map(({ keyword }) => keyword ?? 0))
  return (
    <>
      <p className={css.summary} role="status">
        {count(list.length)} {list.length === 1 ? 'result' : 'results'}
        {tookMs !== null && ` in ${number(Math.round(tookMs))} ms`}
      </p>
      <ol className={cx(css.list, stale && css.stale)}>
        {list.map((answer, index) => (
          <AnswerCard
            key={answer.key}
            answer={answer}
            rank={index + 1}
            selected={answer === selected}
            bestKeyword={bestKeyword}
            categories={categories}
          />
        ))}
      </ol>
      {more && <ActionButton action="search.more" className={css.more} />}
    </>
  )
}

/** The view without a query. */
function Start() {
  const { name, status, all, pending, error } = useCollection()
  if (error && !status) return <ErrorState error={error} />
  if (pending) return <Loading />
  if (!status && all.length > 0) {
    return (
      <EmptyState title={`Collection “${name}” not found`}>
        Choose another collection at the top of the page.
      </EmptyState>
    )
  }
  if (!status) {
    return (
      <EmptyState title="No collections yet">
        Declare a table with “backline add”, then embed it with “backline backfill”.
      </EmptyState>
    )
  }
  const { coverage, model } = status
  return (
    <div className={css.start}>
      <EmptyState title="Ask in your own words">
        Search {count(coverage.rows)} entries of {status.name} by meaning and keywords with{' '}
        {model.name}.
        {coverage.embedded < coverage.rows &&
          !coverage.complete &&
          ` ${count(coverage.rows - coverage.embedded)} are not embedded yet.`}
      </EmptyState>
      {status.name === MUSIC && <Examples />}
    </div>
  )
}

function Examples() {
  return (
    <ul className={css.examples} aria-label="Examples">
      {EXAMPLES.map((query) => (
        <li key={query}>
          <Button onClick={() => void runAction('search.setQuery', { query })}>{query}</Button>
        </li>
      ))}
    </ul>
  )
}

function NoResults({ state }: { state: SearchState }) {
  const keywordOnly = state.mode === 'keyword'
  const actions = (
    <>
      {keywordOnly && (
        <ActionButton action="search.setMode" parameters={{ mode: 'hybrid' }} kind="primary">
          Search by meaning
        </ActionButton>
      )}
      <ActionButton action="search.clear" />
    </>
  )
  return (
    <EmptyState title={`No results for “${state.q}”`} actions={actions}>
      {state.category && `The category filter is ${displayName(state.category)}. `}
      {keywordOnly
        ? 'No entry contains these words. Search by meaning to find related entries.'
        : 'Try other words or remove filters.'}
    </EmptyState>
  )
}

function NothingRelevant({ query }: { query: string }) {
  return (
    <EmptyState
      title={`No relevant results for “${query}”`}
      actions={<ActionButton action="search.nearest" />}
    >
      No entry is close in meaning or shares a keyword. Try other words, or show the nearest
      entries.
    </EmptyState>
  )
}

/** The offline bar at the top of the page shows the details. */
function Waiting({ query }: { query: string }) {
  return (
    <EmptyState title="Waiting for the server">
      The search for “{query}” runs when the connection is back.
    </EmptyState>
  )
}

function Loading() {
  return (
    <div className={css.list} aria-hidden="true">
      {[1, 2, 3, 4].map((row) => (
        <Skeleton key={row} height={168} />
      ))}
    </div>
  )
}
