import { type CSSProperties, memo } from 'react'
import { runAction } from '../actions/useAction'
import { score } from '../format/numbers'
import { displayedParameters } from '../format/parameters'
import { useApplied } from '../suggestions/applied'
import { categoryVariable, displayName } from '../theme/categories'
import { ActionButton, cx } from '../ui'
import css from './answerCard.module.css'
import { type Answer, pieces } from './answers'

interface AnswerCardProps {
  answer: Answer
  rank: number
  selected: boolean
  /** The highest keyword score in the list: BM25 has no fixed scale. */
  bestKeyword: number
  categories: readonly string[]
}

export const AnswerCard = memo(function AnswerCard(props: AnswerCardProps) {
  const { answer, rank, selected, categories } = props
  const colour = `var(${categoryVariable(answer.category, categories)})`
  const select = () => !selected && void runAction('results.select', { key: answer.key })
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: the keys j and k select results
    <li
      id={`result-${answer.key}`}
      className={cx(css.card, selected && css.selected)}
      aria-current={selected || undefined}
      tabIndex={-1}
      onClick={select}
      onFocus={select}
      style={{ '--category': colour } as CSSProperties}
    >
      <header className={css.cardHead}>
        <span className={css.rank}>{rank}</span>
        <h2>{answer.title}</h2>
        <Category answer={answer} />
        {answer.confidence !== null && <Confidence value={answer.confidence} />}
      </header>
      <p className={css.advice}>
        {pieces(answer.advice, answer.words).map(({ start, text, marked }) =>
          marked ? <mark key={start}>{text}</mark> : text,
        )}
      </p>
      <Parameters parameters={answer.parameters} />
      <footer className={css.cardFoot}>
        <Explanation {...props} />
        <Buttons answer={answer} />
      </footer>
    </li>
  )
})

function Category({ answer: { category, topic } }: { answer: Answer }) {
  if (!category) return null
  return (
    <span className={css.category}>
      {displayName(category)}
      {topic && topic !== category && <span className="quiet"> · {displayName(topic)}</span>}
    </span>
  )
}

/** Values with more characters occupy a full row. */
const WIDE = 13

function Parameters({ parameters }: { parameters: Record<string, unknown> }) {
  const displayed = displayedParameters(parameters)
  if (displayed.length === 0) return null
  return (
    <dl className={css.parameters}>
      {displayed.map(({ name, label, value, unit }) => (
        <div
          key={name}
          className={cx(css.parameter, value.length + unit.length > WIDE && css.wide)}
        >
          <dt>{label}</dt>
          <dd>
            {value}
            {unit && <span className={css.unit}> {unit}</span>}
          </dd>
        </div>
      ))}
    </dl>
  )
}

const SEGMENTS = 10

/** The confidence as a level meter of ten segments. */
function Confidence({ value }: { value: number }) {
  const litCount = Math.round(value * SEGMENTS)
  return (
    <span className={css.confidence} title="Author’s confidence">
      <span className={css.meter} aria-hidden="true">
        {Array.from({ length: SEGMENTS }, (_, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a segment is its position
          <i key={index} className={index < litCount ? css.lit : undefined} />
        ))}
      </span>
      <span className="hidden-text">Confidence </span>
      <span className="num">{Math.round(100 * value)} %</span>
    </span>
  )
}

/** The scores that determine the rank, and the reason for the context. */
function Explanation({ answer, bestKeyword }: AnswerCardProps) {
  const { dense, keyword, fused, reason } = answer
  return (
    <div className={css.explanation}>
      <dl className={css.ranking}>
        <Score label="Meaning" hint="Cosine similarity of the embeddings" value={dense} max={1} />
        <Score label="Keywords" hint="BM25" value={keyword} max={bestKeyword} />
        <Score
          label="Combined"
          hint="Fused score; orders the results"
          value={fused}
          max={1}
          strong
        />
      </dl>
      {reason && <p className={css.reason}>{reason}</p>}
    </div>
  )
}

interface ScoreProps {
  label: string
  hint: string
  value: number | null
  max: number
  strong?: boolean
}

function Score({ label, hint, value, max, strong = false }: ScoreProps) {
  const ratio = value === null || max <= 0 ? 0 : Math.min(1, Math.max(0, value / max))
  return (
    <div className={cx(css.score, strong && css.strong)} title={hint}>
      <dt>{label}</dt>
      <dd>
        <span className={css.bar} aria-hidden="true">
          <span style={{ width: `${100 * ratio}%` }} />
        </span>
        {value === null ? <span className="quiet">none</span> : score(value)}
      </dd>
    </div>
  )
}

function Buttons({ answer }: { answer: Answer }) {
  const { key, title, parameters } = answer
  const isApplied = useApplied().some((applied) => applied.key === key)
  if (Object.keys(parameters).length === 0) return null
  return (
    <div className={css.buttons}>
      <ActionButton action="suggestion.copy" parameters={{ key }} kind="ghost" size="small">
        Copy
      </ActionButton>
      {isApplied ? (
        <ActionButton action="suggestion.revert" parameters={{ key }} size="small">
          Revert
        </ActionButton>
      ) : (
        <ActionButton
          action="suggestion.apply"
          parameters={{ key, title, parameters }}
          size="small"
          kind="primary"
        >
          Apply
        </ActionButton>
      )}
    </div>
  )
}
