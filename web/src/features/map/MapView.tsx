import { useQuery } from '@tanstack/react-query'
import { type RefObject, useCallback, useMemo, useRef } from 'react'
import { runAction } from '@/shared/actions/useAction'
import { mapQuery, placeQuery } from '@/shared/api/queries'
import type { CollectionMap } from '@/shared/bridge/codetteBridge'
import { useBridge } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { count } from '@/shared/format/numbers'
import type { Answer } from '@/shared/search/answers'
import { SearchField } from '@/shared/search/SearchField'
import { searchSchema } from '@/shared/search/state'
import { useAnswers, useFacet } from '@/shared/search/useAnswers'
import {
  useResultActions,
  useSearchActions,
  useSearchFacts,
} from '@/shared/search/useSearchActions'
import { ActionButton, EmptyState, ErrorState, Skeleton } from '@/shared/ui'
import { param, useUrlState } from '@/shared/url'
import { Cloud } from './cloud'
import type { MapController } from './controller'
import { MapCanvas } from './MapCanvas'
import css from './map.module.css'
import type { Highlights } from './painter'
import { Sidebar } from './Sidebar'
import { Legend, Zoom } from './Toolbar'
import { useEntriesInView } from './useEntriesInView'
import { useMapActions } from './useMapActions'
import type { Point } from './view'

const SCHEMA = {
  ...searchSchema,
  hidden: param.list(),
  /** Centre and zoom of the view as x,y,zoom. The default is the whole map. */
  at: param.text(),
}

/** The embeddings of a collection as a map, with the query and its hits highlighted. */
export default function MapView() {
  const { name, pending, error } = useCollection()
  const map = useQuery(mapQuery(useBridge(), name))
  const mapError = error ?? map.error
  return (
    <div className={css.view}>
      <h1 className="hidden-text">Map</h1>
      {map.data ? (
        map.data.count > 0 ? (
          <LoadedMap key={name} map={map.data} />
        ) : (
          <Empty collection={name} />
        )
      ) : mapError && !pending ? (
        <ErrorState error={mapError} onRetry={() => void map.refetch()} />
      ) : (
        <Loading />
      )}
    </div>
  )
}

function Loading() {
  return (
    <div aria-busy="true" className={css.view}>
      <span className="hidden-text">Loading map</span>
      <Skeleton height={40} />
      <Skeleton height={480} />
    </div>
  )
}

function Empty({ collection }: { collection: string }) {
  return (
    <EmptyState
      title="No embeddings yet"
      actions={<ActionButton action="backfill.start" kind="primary" />}
    >
      No row of {collection} is embedded. Start a backfill to see its rows on the map.
    </EmptyState>
  )
}

function LoadedMap({ map }: { map: CollectionMap }) {
  const controller = useRef<MapController>(null)
  const { state, cloud, hidden, facet, answers, answer, highlights, onPick, view } = useMapState(
    map,
    controller,
  )
  return (
    <>
      <div className={css.top}>
        <div>
          <SearchField
            value={state.q}
            mode={state.mode}
            onEnter={() => void runAction('map.zoomToHits')}
          />
        </div>
        <Zoom />
      </div>
      <Legend cloud={cloud} hidden={hidden} map={map} />
      <div className={css.columns}>
        <MapCanvas
          ref={controller}
          cloud={cloud}
          highlights={highlights}
          hidden={hidden}
          label={labelOf(cloud, map.collection)}
          onPick={onPick}
          onMoving={view.onMoving}
          onSettled={view.onSettled}
        />
        <Sidebar
          cloud={cloud}
          state={state}
          answers={answers}
          answer={answer}
          facet={facet}
          inView={view.entries}
          listRef={view.listRef}
        />
      </div>
    </>
  )
}

/** Return the state of the view and bind its actions. */
function useMapState(map: CollectionMap, controller: RefObject<MapController | null>) {
  const [state, set] = useUrlState(SCHEMA)
  const cloud = useMemo(() => new Cloud(map), [map])
  const hidden = useMemo(() => new Set(state.hidden), [state.hidden])
  const facet = useFacet()
  const answers = useAnswers(state, facet)
  const answer = answers.list.find(({ key }) => key === state.key)
  const selected = cloud.find(state.key)
  const highlights = useHighlights(cloud, map.collection, answers.list, state.q, selected)
  const view = useEntriesInView({ cloud, hidden, at: state.at, set, controller })
  const onPick = useCallback(
    (index: number) => set({ key: index < 0 ? null : cloud.key(index) }),
    [set, cloud],
  )
  const select = (index: number) => {
    onPick(index)
    if (index >= 0) controller.current?.reveal(cloud.position(index))
  }
  useSearchActions(state, set)
  useResultActions(answers.list, answer, set, (key) => select(cloud.find(key)))
  useSearchFacts(state, answers, answer)
  useMapActions({
    controller: () => controller.current,
    cloud,
    hidden,
    setHidden: (names) => set({ hidden: names }),
    selected,
    select,
    hits: positionsOf(cloud, highlights),
  })
  return { state, cloud, hidden, facet, answers, answer, highlights, onPick, view }
}

/** The hits and the selected entry as points, and the position of the query. */
function useHighlights(
  cloud: Cloud,
  collection: string,
  hits: readonly Answer[],
  query: string,
  selected: number,
): Pick<Highlights, 'hits' | 'query' | 'selected'> {
  const place = useQuery(placeQuery(useBridge(), query, collection))
  // A placeholder is the position of the previous query.
  const position = query.trim() !== '' && !place.isPlaceholderData ? (place.data ?? null) : null
  return useMemo(
    () => ({
      hits: hits.map(({ key }) => cloud.find(key)).filter((index) => index >= 0),
      query: position,
      selected,
    }),
    [hits, cloud, position, selected],
  )
}

function positionsOf(cloud: Cloud, { hits, query }: Pick<Highlights, 'hits' | 'query'>): Point[] {
  const positions = hits.map((index) => cloud.position(index))
  return query ? [...positions, query] : positions
}

function labelOf(cloud: Cloud, collection: string): string {
  return (
    `${count(cloud.count)} entries of ${collection}. Arrow keys pan, plus and minus zoom, period` +
    ' and comma select the next and the previous point. The list contains the entries in view.'
  )
}
