import { runAction } from '@/shared/actions/useAction'
import type { CollectionMap } from '@/shared/bridge/codetteBridge'
import { count } from '@/shared/format/numbers'
import { displayName } from '@/shared/theme/categories'
import { ActionButton, Chip } from '@/shared/ui'
import type { Cloud } from './cloud'
import css from './map.module.css'

export function Zoom() {
  return (
    <div className={css.zoom}>
      <ActionButton action="map.zoomOut" size="icon" aria-label="Zoom out">
        −
      </ActionButton>
      <ActionButton action="map.zoomIn" size="icon" aria-label="Zoom in">
        +
      </ActionButton>
      <ActionButton action="map.fit">Fit</ActionButton>
      <ActionButton action="map.zoomToHits">Zoom to hits</ActionButton>
    </div>
  )
}

interface LegendProps {
  cloud: Cloud
  hidden: ReadonlySet<string>
  map: CollectionMap
}

/** The categories with their colours, as toggles. */
export function Legend({ cloud, hidden, map }: LegendProps) {
  return (
    <fieldset className={css.legend}>
      <legend className="hidden-text">Visible categories</legend>
      {cloud.categories.map(({ name, count: entries, colour }) => (
        <Chip
          key={name}
          colour={colour}
          count={entries}
          pressed={!hidden.has(name)}
          onClick={() => void runAction('map.toggleCategory', { category: name })}
        >
          {displayName(name)}
        </Chip>
      ))}
      {hidden.size > 0 && <ActionButton action="map.showAll" size="small" />}
      {map.count < map.total && (
        <span className={css.note}>
          Sample of {count(map.count)} from {count(map.total)} entries
        </span>
      )}
    </fieldset>
  )
}
