import { type CSSProperties, memo } from 'react'
import { runAction } from '@/shared/actions/useAction'
import { score } from '@/shared/format/numbers'
import { shownParameters } from '@/shared/format/parameters'
import { categoryVariable, spoken } from '@/shared/theme/categories'
import { ActionButton, cx } from '@/shared/ui'
import { type Answer, pieces } from './answers'
import { useApplied } from './applied'
import css from './ask.module.css'

interface AnswerCardProps {
  answer: Answer
  place: number
  selected: boolean
  /** The best of the keyword scores that are shown: they have no scale of their own. */
  bestKeyword: number
  categories: readonly string[]
}

export const AnswerCard = memo(function AnswerCard(props: AnswerCardProps) {
  const { answer, place, selected, categories } = props
  const colour = `var(${categoryVariable(answer.category, categories)})`
  const select = () => !selected && void runAction('results.select', { key: answer.key })
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: with keys, results are selected by j and k
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
        <span className={css.place}>{place}</span>
        <h2>{answer.title}</h2>
        {answer.category && (
          <span className={css.category}>
            {spoken(answer.category)}
            {answer.topic && answer.topic !== answer.category && (
              <span className="quiet"> · {spoken(answer.topic)}</span>
            )}
          </span>
        )}
        {answer.confidence !== null && <Confidence value={answer.confidence} />}
      </header>
      <p className={css.advice}>
        {pieces(answer.advice, answer.words).map(({ at, text, marked }) =>
          marked ? <mark key={at}>{text}</mark> : text,
        )}
      </p>
      <Parameters parameters={answer.parameters} />
      <footer className={css.cardFoot}>
        <Ranking {...props} />
        <Doing answer={answer} />
      </footer>
    </li>
  )
})

/** Characters of a value that need the whole row. */
const WIDE = 13

function Parameters({ parameters }: { parameters: Record<string, unknown> }) {
  const shown = shownParameters(parameters)
  if (shown.length === 0) return null
  return (
    <dl className={css.parameters}>
      {shown.map(({ name, label, value, unit }) => (
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

const LAMPS = 10

/** A ladder of lamps, as on a console. */
function Confidence({ value }: { value: number }) {
  const lit = Math.round(value * LAMPS)
  return (
    <span className={css.confidence} title="How sure the author is">
      <span className={css.lamps} aria-hidden="true">
        {Array.from({ length: LAMPS }, (_, at) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a lamp is its place
          <i key={at} className={at < lit ? css.lit : undefined} />
        ))}
      </span>
      <span className="hidden-text">Confidence </span>
      <span className="num">{Math.round(100 * value)} %</span>
    </span>
  )
}

/** Why it stands where it does. */
function Ranking({ answer, bestKeyword }: AnswerCardProps) {
  const { dense, keyword, fused, reason } = answer
  return (
    <div className={css.why}>
      <dl className={css.ranking}>
        <Part label="Meaning" hint="Cosine of the embeddings (dense)" value={dense} full={1} />
        <Part label="Words" hint="BM25 (keyword)" value={keyword} full={bestKeyword} />
        <Part
          label="Together"
          hint="Both parts fused: what it is ranked by"
          value={fused}
          full={1}
          strong
        />
      </dl>
      {reason && <p className={css.reason}>{reason}</p>}
    </div>
  )
}

interface PartProps {
  label: string
  hint: string
  value: number | null
  full: number
  strong?: boolean
}

function Part({ label, hint, value, full, strong = false }: PartProps) {
  const ratio = value === null || full <= 0 ? 0 : Math.min(1, Math.max(0, value / full))
  return (
    <div className={cx(css.part, strong && css.strong)} title={hint}>
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

function Doing({ answer }: { answer: Answer }) {
  const { key, title, parameters } = answer
  const applied = useApplied().find((each) => each.key === key)
  if (Object.keys(parameters).length === 0) return null
  return (
    <div className={css.doing}>
      <ActionButton action="suggestion.copy" parameters={{ key }} kind="ghost" size="small">
        Copy
      </ActionButton>
      {applied ? (
        <ActionButton action="suggestion.revert" parameters={{ key }} size="small">
          Take back
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
