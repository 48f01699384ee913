import type { CollectionStatus } from '@/shared/bridge/codetteBridge'
import { duration, percent } from '@/shared/format/numbers'
import { Meter } from '@/shared/ui'
import css from './coverage.module.css'
import { count } from './format'

interface Props {
  collections: readonly CollectionStatus[]
  selected: string
  onSelect: (collection: string) => void
}

const COLUMNS = [
  'Collection', 'Coverage', 'Rows', 'Embedded', 'Stale', 'Pending', 'Failed', 'Lag', 'Model',
  'Dimensions',
] // biome-ignore format: a list

/** The coverage of each collection. */
export function Collections({ collections, selected, onSelect }: Props) {
  return (
    <section className={css.scroller} aria-label="Collections">
      <table className={css.collections} data-testid="collections">
        <caption className="hidden-text">Coverage by collection</caption>
        <thead>
          <tr>
            {COLUMNS.map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {collections.map((collection) => (
            <Row
              key={collection.name}
              collection={collection}
              selected={collection.name === selected}
              onSelect={onSelect}
            />
          ))}
        </tbody>
      </table>
    </section>
  )
}

function Row({
  collection,
  selected,
  onSelect,
}: {
  collection: CollectionStatus
  selected: boolean
  onSelect: Props['onSelect']
}) {
  const { name, coverage, model } = collection
  return (
    <tr data-selected={selected} data-testid={`collection-${name}`}>
      <th scope="row">
        <button
          type="button"
          className={css.name}
          aria-pressed={selected}
          onClick={() => onSelect(name)}
        >
          {name}
        </button>
      </th>
      <td className={css.covered}>
        {coverage.ratio === null ? (
          <span className="quiet">{coverage.empty ? 'empty' : 'no text'}</span>
        ) : (
          <>
            <Meter
              value={coverage.ratio}
              label={`Coverage of ${name}`}
              colour={coverage.complete ? '--ok' : '--accent'}
            />
            <span className="num">
              {coverage.problems.length && coverage.ratio === 1
                ? 'not certain'
                : percent(coverage.ratio)}
            </span>
          </>
        )}
      </td>
      <Figure label="Rows" value={count(coverage.rows)} />
      <Figure label="Embedded" value={count(coverage.embedded)} />
      <Figure
        label="Stale"
        value={
          coverage.stale === null ? (coverage.pending ? 'not counted' : '0') : count(coverage.stale)
        }
      />
      <Figure
        label="Pending"
        value={count(coverage.pending)}
        tone={coverage.pending ? 'warn' : undefined}
      />
      <Figure
        label="Failed"
        value={count(coverage.failed)}
        tone={coverage.failed ? 'bad' : undefined}
      />
      <Figure label="Lag" value={coverage.pending ? duration(coverage.lagSeconds) : 'none'} />
      <td data-label="Model" className={css.model} title={model.revision}>
        {model.provider === model.name ? model.name : `${model.provider}/${model.name}`}
      </td>
      <Figure label="Dimensions" value={count(model.dimensions)} />
    </tr>
  )
}

function Figure({ label, value, tone }: { label: string; value: string; tone?: 'warn' | 'bad' }) {
  return (
    <td data-label={label} data-tone={tone} className={css.figure}>
      {value}
    </td>
  )
}
