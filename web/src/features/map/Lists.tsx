import { runAction } from '@/shared/actions/useAction'
import { score } from '@/shared/format/numbers'
import type { Answer } from '@/shared/search/answers'
import { displayName } from '@/shared/theme/categories'
import { cx } from '@/shared/ui'
import type { Cloud } from './cloud'
import css from './map.module.css'

/** The hits with the ranks that label them on the map. */
export function Hits({ hits, selected }: { hits: readonly Answer[]; selected: string | null }) {
  return (
    <ol className={css.list} data-testid="map-hits">
      {hits.map(({ key, title, fused }, index) => (
        <li key={key}>
          <Entry id={key} selected={key === selected}>
            <span className={cx(css.rank, 'num')}>{index + 1}</span>
            <span className={css.entryTitle}>{title}</span>
            <span className={cx(css.score, 'num')}>{score(fused)}</span>
          </Entry>
        </li>
      ))}
    </ol>
  )
}

/** The entries in view as a list: the accessible alternative to the canvas. */
export function InView({
  cloud,
  points,
  selected,
}: {
  cloud: Cloud
  points: readonly number[]
  selected: string | null
}) {
  return (
    <ul className={css.list} data-testid="map-list">
      {points.map((index) => (
        <li key={cloud.key(index)}>
          <Entry id={cloud.key(index)} selected={cloud.key(index) === selected}>
            <Dot colour={cloud.colourOf(index)} />
            <span className={css.entryTitle}>{cloud.title(index)}</span>
            <span className="hidden-text">, {displayName(cloud.categoryOf(index))}</span>
          </Entry>
        </li>
      ))}
    </ul>
  )
}

function Entry({
  id,
  selected,
  children,
}: {
  id: string
  selected: boolean
  children: React.ReactNode
}) {
  return (
    <button
      type="button"
      className={css.entry}
      aria-pressed={selected}
      onClick={() => void runAction('results.select', { key: selected ? null : id })}
    >
      {children}
    </button>
  )
}

export function Dot({ colour }: { colour: string }) {
  return <span className={css.dot} style={{ background: `var(${colour})` }} />
}
