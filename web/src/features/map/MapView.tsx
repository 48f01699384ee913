import { useQuery } from '@tanstack/react-query'
import { useCallback, useLayoutEffect, useMemo, useRef, useState } from 'react'
import { runAction } from '@/shared/actions/useAction'
import { mapQuery, placeQuery } from '@/shared/api/queries'
import type { CollectionMap } from '@/shared/bridge/codetteBridge'
import { useBridge } from '@/shared/bridge/context'
import { useCollection } from '@/shared/collection'
import { count } from '@/shared/format/numbers'
import { inOrder, spoken } from '@/shared/theme/categories'
import { ActionButton, Button, Chip, EmptyState, ErrorState, Panel, Skeleton } from '@/shared/ui'
import { param, useUrlState } from '@/shared/url'
import { AnswerCard } from '../ask/AnswerCard'
import type { Answer } from '../ask/answers'
import { SearchField } from '../ask/SearchField'
import { askSchema } from '../ask/state'
import { type Answers, useAnswers, useFacet } from '../ask/useAnswers'
import { useAskFacts, useResultActions, useSearchActions } from '../ask/useAskActions'
import { Cloud } from './cloud'
import type { MapController } from './controller'
import { Hits, InView } from './Lists'
import { MapCanvas } from './MapCanvas'
import css from './map.module.css'
import { useMapActions } from './useMapActions'
import type { Bounds, Point, View } from './view'

const SCHEMA = {
  ...askSchema,
  hidden: param.list(),
  /** Middle and zoom of what is shown, as x,y,zoom; none: the whole map. */
  at: param.text(),
}
const LISTED = 60

/** The embeddings of a collection in the plane, with the question and its hits lit up. */
export default function MapView() {
  const bridge = useBridge()
  const { name, pending, error } = useCollection()
  const map = useQuery(mapQuery(bridge, name))
  const failed = error ?? map.error
  return (
    <div className={css.view}>
      <h1 className="hidden-text">Map</h1>
      {map.data ? (
        map.data.count > 0 ? (
          <Shown key={name} map={map.data} />
        ) : (
          <Nothing collection={name} />
        )
      ) : failed && !pending ? (
        <ErrorState error={failed} onRetry={() => void map.refetch()} />
      ) : (
        <Loading />
      )}
    </div>
  )
}

function Loading() {
  return (
    <div aria-busy="true" className={css.view}>
      <span className="hidden-text">Loading the map</span>
      <Skeleton height={40} />
      <Skeleton height={480} />
    </div>
  )
}

function Nothing({ collection }: { collection: string }) {
  return (
    <EmptyState
      title="Nothing to draw yet"
      actions={<ActionButton action="backfill.start" kind="primary" />}
    >
      No row of {collection} has a vector. Once a backfill has embedded them, they appear here.
    </EmptyState>
  )
}

function Shown({ map }: { map: CollectionMap }) {
  const bridge = useBridge()
  const controller = useRef<MapController>(null)
  const [state, set] = useUrlState(SCHEMA)
  const cloud = useMemo(() => new Cloud(map), [map])
  const facet = useFacet()
  const answers = useAnswers(state, facet)
  const place = useQuery(placeQuery(bridge, state.q, map.collection))
  const asked = state.q.trim() !== ''
  const hidden = useMemo(() => new Set(state.hidden), [state.hidden])
  const selected = cloud.find(state.key)
  const hits = answers.list
  const lit = useMemo(
    () => ({
      hits: hits.map(({ key }) => cloud.find(key)).filter((at) => at >= 0),
      // The place of an older question is none of this one.
      query: asked && !place.isPlaceholderData ? (place.data ?? null) : null,
      selected,
    }),
    [hits, cloud, asked, place.data, place.isPlaceholderData, selected],
  )
  const select = useCallback(
    (at: number) => {
      set({ key: at < 0 ? null : cloud.key(at) })
      if (at >= 0) controller.current?.reveal(cloud.place(at))
    },
    [set, cloud],
  )
  const onPick = useCallback(
    (at: number) => set({ key: at < 0 ? null : cloud.key(at) }),
    [set, cloud],
  )
  const { list, inView, onMoving, onSettled } = useSettled(cloud, hidden, state.at, set, controller)
  const answer = hits.find(({ key }) => key === state.key)
  useSearchActions(state, set)
  useResultActions(hits, answer, set, (key) => select(cloud.find(key)))
  useAskFacts(state, answers, answer)
  useMapActions({
    controller: () => controller.current,
    cloud,
    hidden,
    setHidden: (names) => set({ hidden: names }),
    selected,
    select,
    found: foundPoints(cloud, lit.hits, lit.query),
  })
  const label = `${count(cloud.count)} entries of ${map.collection}. Arrow keys move the view, plus and minus zoom, full stop and comma go from point to point. The entries in view are listed beside it.`
  return (
    <>
      <div className={css.top}>
        <div>
          <SearchField
            value={state.q}
            mode={state.mode}
            onDown={() => void runAction('map.zoomToHits')}
          />
        </div>
        <Zoom />
      </div>
      <Legend cloud={cloud} hidden={hidden} map={map} />
      <div className={css.columns}>
        <MapCanvas
          ref={controller}
          cloud={cloud}
          lit={lit}
          hidden={hidden}
          label={label}
          onPick={onPick}
          onMoving={onMoving}
          onSettled={onSettled}
        />
        <div className={css.side}>
          <Selected
            cloud={cloud}
            at={selected}
            answer={answer}
            hits={hits}
            facet={facet?.values.map(({ value }) => value) ?? []}
          />
          {asked && <HitsPanel answers={answers} selected={state.key} />}
          <Panel ref={list} title={`In view: ${count(inView.length)}`} className={css.listPanel}>
            <InView cloud={cloud} points={inView.slice(0, LISTED)} selected={state.key} />
            {inView.length > LISTED && (
              <p className={css.note}>
                The {LISTED} next to the middle. Zoom in to list the others.
              </p>
            )}
          </Panel>
        </div>
      </div>
    </>
  )
}

function foundPoints(cloud: Cloud, hits: readonly number[], query: Point | null): Point[] {
  const places = hits.map((at) => cloud.place(at))
  return query ? [...places, query] : places
}

interface Settled {
  /** The panel that lists what is in view; busy while that is out of date. */
  list: React.RefObject<HTMLElement | null>
  inView: readonly number[]
  onMoving: () => void
  onSettled: (view: View, bounds: Bounds) => void
}

/** What is in view once the view has come to rest, and the address that says so. */
function useSettled(
  cloud: Cloud,
  hidden: ReadonlySet<string>,
  at: string,
  set: (changes: { at: string }) => void,
  controller: React.RefObject<MapController | null>,
): Settled {
  const list = useRef<HTMLElement>(null)
  const [bounds, setBounds] = useState<Bounds | null>(null)
  const wanted = useRef(at)
  const onSettled = useCallback(
    (view: View, shown: Bounds) => {
      const map = controller.current
      if (!map) return
      const start = placeOf(wanted.current)
      wanted.current = ''
      if (start) return map.goTo(start, start.zoom)
      setBounds(shown)
      set({ at: map.whole ? '' : [view.x, view.y, map.zoom].map((each) => each.toFixed(3)).join() })
    },
    [set, controller],
  )
  const inView = useMemo(
    () => (bounds ? cloud.within(bounds, hidden) : []),
    [bounds, cloud, hidden],
  )
  // By hand: that the map moves is no reason to make the page anew.
  const busy = useCallback((so: boolean) => {
    list.current?.setAttribute('aria-busy', String(so))
  }, [])
  const onMoving = useCallback(() => busy(true), [busy])
  useLayoutEffect(() => busy(bounds === null), [busy, bounds])
  return { list, inView, onMoving, onSettled }
}

/** x,y,zoom of an address; null where it has none, or something else. */
function placeOf(text: string): (Point & { zoom: number }) | null {
  const [x, y, zoom, ...more] = text.split(',').map(Number)
  if (x === undefined || y === undefined || zoom === undefined || more.length) return null
  return [x, y, zoom].every(Number.isFinite) && zoom > 0 ? { x, y, zoom } : null
}

function Zoom() {
  return (
    <div className={css.zoom}>
      <ActionButton action="map.zoomOut" size="icon" aria-label="Zoom out">
        −
      </ActionButton>
      <ActionButton action="map.zoomIn" size="icon" aria-label="Zoom in">
        +
      </ActionButton>
      <ActionButton action="map.fit">Fit</ActionButton>
      <ActionButton action="map.zoomToHits">To the hits</ActionButton>
    </div>
  )
}

function Legend({
  cloud,
  hidden,
  map,
}: {
  cloud: Cloud
  hidden: ReadonlySet<string>
  map: CollectionMap
}) {
  return (
    <fieldset className={css.legend}>
      <legend className="hidden-text">Categories shown</legend>
      {cloud.categories.map(({ name, count: entries, colour }) => (
        <Chip
          key={name}
          colour={colour}
          count={entries}
          pressed={!hidden.has(name)}
          onClick={() => void runAction('map.toggleCategory', { category: name })}
        >
          {spoken(name)}
        </Chip>
      ))}
      {hidden.size > 0 && <ActionButton action="map.showAll" size="small" />}
      {map.count < map.total && (
        <span className={css.note}>
          {count(map.count)} of {count(map.total)} entries, an even sample
        </span>
      )}
    </fieldset>
  )
}

interface SelectedProps {
  cloud: Cloud
  at: number
  answer: Answer | undefined
  hits: readonly Answer[]
  facet: readonly string[]
}

/** The entry that was clicked: a hit with all that is known of it, any other by its name. */
function Selected({ cloud, at, answer, hits, facet }: SelectedProps) {
  if (answer) {
    const bestKeyword = Math.max(...hits.map(({ keyword }) => keyword ?? 0))
    return (
      <ol className={css.selectedHit} data-testid="map-selected">
        <AnswerCard
          answer={answer}
          place={hits.indexOf(answer) + 1}
          selected
          bestKeyword={bestKeyword}
          categories={inOrder(facet)}
        />
      </ol>
    )
  }
  if (at < 0) return null
  return (
    <Panel title={cloud.title(at)} className={css.selected}>
      <div className={css.selectedBody} data-testid="map-selected">
        <p className="quiet">{spoken(cloud.categoryOf(at))}</p>
        <Button
          size="small"
          onClick={() => void runAction('search.setQuery', { query: cloud.title(at) })}
        >
          Ask for what is like it
        </Button>
      </div>
    </Panel>
  )
}

function HitsPanel({ answers, selected }: { answers: Answers; selected: string | null }) {
  return (
    <Panel title="Hits" className={css.listPanel} busy={answers.loading || answers.stale}>
      {answers.error ? (
        <ErrorState error={answers.error} onRetry={answers.retry} />
      ) : answers.loading ? (
        <Skeleton height={160} />
      ) : answers.keptBack ? (
        <div className={css.selectedBody}>
          <p className="quiet">Nothing relevant is known about this.</p>
          <ActionButton action="search.nearest" size="small" />
        </div>
      ) : answers.list.length === 0 ? (
        <p className="quiet">Nothing was found.</p>
      ) : (
        <Hits hits={answers.list} selected={selected} />
      )}
    </Panel>
  )
}
