import { runAction } from '@/shared/actions/useAction'
import { useConnection } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { count, number } from '@/shared/format/numbers'
import { spoken } from '@/shared/theme/categories'
import { ActionButton, Button, cx, EmptyState, ErrorState, Skeleton } from '@/shared/ui'
import { AnswerCard } from './AnswerCard'
import type { Answer } from './answers'
import css from './ask.module.css'
import type { AskState } from './state'
import type { Answers } from './useAnswers'

const EXAMPLES = [
  'my vocals sound muddy',
  'kick and bass fight each other',
  'the master is too quiet for streaming',
  'snare without punch',
  'wide guitars that survive mono',
  'chords for a melancholic chorus',
]
/** The collection that the examples are about. */
const MUSIC = 'music_knowledge'

interface ResultsProps {
  state: AskState
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
  const { list, keptBack } = answers
  const { all, pending } = useCollection()
  if (answers.idle || (!pending && !answers.error && all.length === 0)) return <Start />
  if (answers.error && !online) return <Waiting query={state.q} />
  if (answers.error) return <ErrorState error={answers.error} onRetry={answers.retry} />
  if (answers.loading) return <Loading />
  if (keptBack) return <Unknown query={state.q} />
  if (list.length === 0) return <Nothing state={state} />
  return <List {...props} />
}

function List({ answers, selected, categories }: ResultsProps) {
  const { list, stale, tookMs, more } = answers
  const best = Math.max(...list.map(({ keyword }) => keyword ?? 0))
  return (
    <>
      <p className={css.found} role="status">
        {count(list.length)} {list.length === 1 ? 'result' : 'results'}
        {tookMs !== null && ` in ${number(Math.round(tookMs))} ms`}
      </p>
      <ol className={cx(css.list, stale && css.stale)}>
        {list.map((answer, at) => (
          <AnswerCard
            key={answer.key}
            answer={answer}
            place={at + 1}
            selected={answer === selected}
            bestKeyword={best}
            categories={categories}
          />
        ))}
      </ol>
      {more && <ActionButton action="search.more" className={css.more} />}
    </>
  )
}

function Start() {
  const { name, found, all, pending, error } = useCollection()
  if (error && !found) return <ErrorState error={error} />
  if (pending) return <Loading />
  if (!found && all.length > 0) {
    return (
      <EmptyState title={`There is no collection ${name}`}>
        Choose one of those that there are at the top of the page.
      </EmptyState>
    )
  }
  if (!found) {
    return (
      <EmptyState title="There is no collection yet">
        Declare a table with “backline add”, fill it with “backline backfill”, and ask it here.
      </EmptyState>
    )
  }
  const { coverage, model } = found
  return (
    <div className={css.start}>
      <EmptyState title="Ask in your own words">
        {count(coverage.rows)} entries of {found.name}, searched by meaning and by words with{' '}
        {model.name}.
        {!coverage.complete && ` ${count(coverage.rows - coverage.embedded)} are not embedded yet.`}
      </EmptyState>
      {found.name === MUSIC && (
        <ul className={css.examples} aria-label="Examples">
          {EXAMPLES.map((query) => (
            <li key={query}>
              <Button onClick={() => void runAction('search.setQuery', { query })}>{query}</Button>
            </li>
          ))}
        </ul>
      )}
    </div>
  )
}

function Nothing({ state }: { state: AskState }) {
  const words = state.mode === 'keyword'
  return (
    <EmptyState
      title={`No result for “${state.q}”`}
      actions={
        <>
          {words && (
            <ActionButton action="search.setMode" parameters={{ mode: 'hybrid' }} kind="primary">
              Search by meaning too
            </ActionButton>
          )}
          <ActionButton action="search.clear" />
        </>
      }
    >
      {state.category && `Only ${spoken(state.category)} was searched. `}
      {words
        ? 'No entry has these words. Ranked by meaning, there may be some.'
        : 'Try other words, or fewer filters.'}
    </EmptyState>
  )
}

function Unknown({ query }: { query: string }) {
  return (
    <EmptyState
      title={`Nothing relevant is known about “${query}”`}
      actions={<ActionButton action="search.nearest" />}
    >
      No entry is close in meaning, and none shares its words. Ask in other words, or see what comes
      nearest.
    </EmptyState>
  )
}

/** The bar above says the rest. */
function Waiting({ query }: { query: string }) {
  return (
    <EmptyState title={`“${query}” waits for the server`}>
      It is asked as soon as the server is back; nothing needs to be done.
    </EmptyState>
  )
}

function Loading() {
  return (
    <div className={css.list} aria-hidden="true">
      {[1, 2, 3, 4].map((each) => (
        <Skeleton key={each} height={168} />
      ))}
    </div>
  )
}
