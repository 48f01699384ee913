import type { CollectionStatus } from '@/shared/bridge/codetteBridge'
import { Meter } from '@/shared/ui'
import css from './coverage.module.css'
import { count, share, span } from './words'

interface Props {
  collections: readonly CollectionStatus[]
  selected: string
  onSelect: (collection: string) => void
}

/** One row a collection: what is embedded, and what is not. */
export function Collections({ collections, selected, onSelect }: Props) {
  return (
    <section className={css.scroller} aria-label="Collections">
      <table className={css.collections} data-testid="collections">
        <caption className="hidden-text">Coverage of every collection</caption>
        <thead>
          <tr>
            {[
              'Collection',
              'Coverage',
              'Rows',
              'Embedded',
              'Stale',
              'Pending',
              'Failed',
              'Lag',
              'Model',
              'Dimensions',
            ].map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {collections.map((each) => (
            <Row key={each.name} of={each} selected={each.name === selected} onSelect={onSelect} />
          ))}
        </tbody>
      </table>
    </section>
  )
}

function Row({
  of,
  selected,
  onSelect,
}: {
  of: CollectionStatus
  selected: boolean
  onSelect: Props['onSelect']
}) {
  const { coverage, model } = of
  return (
    <tr data-selected={selected} data-testid={`collection-${of.name}`}>
      <th scope="row">
        <button
          type="button"
          className={css.name}
          aria-pressed={selected}
          onClick={() => onSelect(of.name)}
        >
          {of.name}
        </button>
      </th>
      <td className={css.covered}>
        <Meter
          value={coverage.ratio}
          label={`Coverage of ${of.name}`}
          colour={coverage.complete ? '--ok' : '--accent'}
        />
        <span className="num">{share(coverage.ratio)}</span>
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
      <Figure label="Lag" value={coverage.pending ? span(coverage.lagSeconds) : 'none'} />
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
