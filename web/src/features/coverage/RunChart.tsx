import { useEffect, useMemo, useRef } from 'react'
import uPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import type { Run } from '@/shared/bridge/codetteBridge'
import { useCssValues } from '@/shared/theme/useCssValues'
import styles from './coverage.module.css'
import { historyOf } from './history'

const HEIGHT = 180
const COLOURS = ['--ink-2', '--line', '--ok', '--bad', '--accent'] as const

interface Props {
  runs: readonly Run[]
  selected: number | null
  onSelect: (run: Run) => void
}

/** Bars of rows embedded and failed, and a line of rows a second; one column a run. */
export function RunChart({ runs, selected, onSelect }: Props) {
  const host = useRef<HTMLDivElement>(null)
  const chart = useRef<uPlot>(null)
  const history = useMemo(() => historyOf(runs), [runs])
  const colours = useCssValues(COLOURS)
  const newest = useRef({ history, selected, onSelect })
  newest.current = { history, selected, onSelect }

  useEffect(() => {
    const element = host.current
    if (!element) return
    const options = optionsOf(colours, element.clientWidth, () => newest.current)
    const made = new uPlot(options, newest.current.history.columns, element)
    chart.current = made
    const observer = new ResizeObserver(() => {
      made.setSize({ width: element.clientWidth, height: HEIGHT })
    })
    observer.observe(element)
    const pick = () => {
      const run = newest.current.history.runs[made.cursor.idx ?? -1]
      if (run) newest.current.onSelect(run)
    }
    made.over.addEventListener('click', pick)
    return () => {
      observer.disconnect()
      made.destroy()
      chart.current = null
    }
  }, [colours])

  useEffect(() => {
    chart.current?.setData(history.columns)
  }, [history])
  // biome-ignore lint/correctness/useExhaustiveDependencies: the selected run is drawn by a hook of the chart
  useEffect(() => chart.current?.redraw(false), [selected])

  return (
    <div
      ref={host}
      className={styles.chart}
      role="img"
      aria-label={`Rows embedded and failed, and rows a second, of the last ${history.runs.length} backfills. The table below has the figures.`}
      data-testid="run-chart"
    />
  )
}

interface Newest {
  history: ReturnType<typeof historyOf>
  selected: number | null
}

type Colours = Record<(typeof COLOURS)[number], string>

function optionsOf(colours: Colours, width: number, newest: () => Newest): uPlot.Options {
  const bars = uPlot.paths.bars?.({ size: [0.7, 28, 3] })
  const axis: uPlot.Axis = {
    stroke: colours['--ink-2'],
    font: '11px "JetBrains Mono Variable", monospace',
    grid: { stroke: colours['--line'], width: 1 },
    ticks: { show: false },
  }
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    padding: [8, 4, 0, 0],
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    scales: {
      x: { time: false, range: (_, low, high) => [low - 0.6, Math.max(high, 7) + 0.6] },
      rows: { range: (_, __, high) => [0, Math.max(high * 1.08, 1)] },
      rate: { range: (_, __, high) => [0, Math.max(high * 1.15, 1)] },
    },
    axes: [
      {
        ...axis,
        grid: { show: false },
        size: 24,
        incrs: [1, 2, 5, 10],
        values: (_, at) => at.map((each) => named(newest(), each)),
      },
      { ...axis, scale: 'rows', size: 48, values: (_, values) => values.map(short) },
      {
        ...axis,
        scale: 'rate',
        side: 1,
        size: 44,
        grid: { show: false },
        values: (_, values) => values.map(short),
      },
    ],
    series: [
      {},
      {
        scale: 'rows',
        fill: colours['--bad'],
        stroke: colours['--bad'],
        width: 0,
        paths: bars,
        points: { show: false },
      },
      {
        scale: 'rows',
        fill: colours['--ok'],
        stroke: colours['--ok'],
        width: 0,
        paths: bars,
        points: { show: false },
      },
      {
        scale: 'rate',
        stroke: colours['--accent'],
        width: 1.5,
        spanGaps: true,
        points: { show: true, size: 5, fill: colours['--accent'] },
      },
    ],
    hooks: { drawClear: [(plot) => mark(plot, newest(), colours['--line'])] },
  }
}

/** Behind the selected run, a band. */
function mark(plot: uPlot, { history, selected }: Newest, colour: string): void {
  const at = history.runs.findIndex((run) => run.id === selected)
  if (at < 0) return
  const from = plot.valToPos(at - 0.45, 'x', true)
  const to = plot.valToPos(at + 0.45, 'x', true)
  plot.ctx.fillStyle = colour
  plot.ctx.fillRect(from, plot.bbox.top, to - from, plot.bbox.height)
}

function named({ history }: Newest, at: number): string {
  const run = history.runs[at]
  return run ? `${run.id}` : ''
}

function short(value: number): string {
  return value >= 10_000 ? `${Math.round(value / 1000)}k` : `${value}`
}
