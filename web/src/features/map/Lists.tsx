import { runAction } from '@/shared/actions/useAction'
import { score } from '@/shared/format/numbers'
import { spoken } from '@/shared/theme/categories'
import { cx } from '@/shared/ui'
import type { Answer } from '../ask/answers'
import type { Cloud } from './cloud'
import css from './map.module.css'

/** The hits of the question, with the numbers that they have on the map. */
export function Hits({ hits, selected }: { hits: readonly Answer[]; selected: string | null }) {
  return (
    <ol className={css.list} data-testid="map-hits">
      {hits.map(({ key, title, fused }, at) => (
        <li key={key}>
          <Entry id={key} selected={key === selected}>
            <span className={cx(css.rank, 'num')}>{at + 1}</span>
            <span className={css.entryTitle}>{title}</span>
            <span className={cx(css.score, 'num')}>{score(fused)}</span>
          </Entry>
        </li>
      ))}
    </ol>
  )
}

/** The entries in view as a list: what the canvas shows, for those who do not see it. */
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
      {points.map((at) => (
        <li key={cloud.key(at)}>
          <Entry id={cloud.key(at)} selected={cloud.key(at) === selected}>
            <Dot colour={cloud.colourOf(at)} />
            <span className={css.entryTitle}>{cloud.title(at)}</span>
            <span className="hidden-text">, {spoken(cloud.categoryOf(at))}</span>
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
