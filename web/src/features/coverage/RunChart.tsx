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

/**
 * A chart with one column per run: bars for rows embedded and failed, a line for rows per second.
 */
export function RunChart({ runs, selected, onSelect }: Props) {
  const host = useRef<HTMLDivElement>(null)
  const chart = useRef<uPlot>(null)
  const history = useMemo(() => historyOf(runs), [runs])
  const colours = useCssValues(COLOURS)
  const latest = useRef({ history, selected, onSelect })
  latest.current = { history, selected, onSelect }

  useEffect(() => {
    const element = host.current
    if (!element) return
    const options = optionsOf(colours, element.clientWidth, () => latest.current)
    const plot = new uPlot(options, latest.current.history.columns, element)
    chart.current = plot
    const observer = new ResizeObserver(() => {
      plot.setSize({ width: element.clientWidth, height: HEIGHT })
    })
    observer.observe(element)
    const selectRun = () => {
      const run = latest.current.history.runs[plot.cursor.idx ?? -1]
      if (run) latest.current.onSelect(run)
    }
    plot.over.addEventListener('click', selectRun)
    return () => {
      observer.disconnect()
      plot.destroy()
      chart.current = null
    }
  }, [colours])

  useEffect(() => {
    chart.current?.setData(history.columns)
  }, [history])
  // biome-ignore lint/correctness/useExhaustiveDependencies: the chart draws the selected run
  useEffect(() => chart.current?.redraw(false), [selected])

  return (
    <div
      ref={host}
      className={styles.chart}
      role="img"
      aria-label={labelOf(history.runs.length)}
      data-testid="run-chart"
    />
  )
}

function labelOf(runs: number): string {
  return (
    `Rows embedded, rows failed and rows per second of the last ${runs} backfills.` +
    ' The table below contains the figures.'
  )
}

interface Latest {
  history: ReturnType<typeof historyOf>
  selected: number | null
}

type Colours = Record<(typeof COLOURS)[number], string>

function optionsOf(colours: Colours, width: number, latest: () => Latest): uPlot.Options {
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
    axes: axesOf(colours, latest),
    series: seriesOf(colours),
    hooks: { drawClear: [(plot) => markSelected(plot, latest(), colours['--line'])] },
  }
}

function axesOf(colours: Colours, latest: () => Latest): uPlot.Axis[] {
  const axis: uPlot.Axis = {
    stroke: colours['--ink-2'],
    font: '11px "JetBrains Mono Variable", monospace',
    grid: { stroke: colours['--line'], width: 1 },
    ticks: { show: false },
  }
  const runs: uPlot.Axis = {
    ...axis,
    grid: { show: false },
    size: 24,
    incrs: [1, 2, 5, 10],
    values: (_, indexes) => indexes.map((index) => runLabel(latest(), index)),
  }
  const values: uPlot.Axis['values'] = (_, splits) => splits.map(short)
  return [
    runs,
    { ...axis, scale: 'rows', size: 48, values },
    { ...axis, scale: 'rate', side: 1, size: 44, grid: { show: false }, values },
  ]
}

function seriesOf(colours: Colours): uPlot.Series[] {
  const paths = uPlot.paths.bars?.({ size: [0.7, 28, 3] })
  const bars = (colour: string): uPlot.Series => ({
    scale: 'rows',
    fill: colour,
    stroke: colour,
    width: 0,
    paths,
    points: { show: false },
  })
  const accent = colours['--accent']
  const rate: uPlot.Series = {
    scale: 'rate',
    stroke: accent,
    width: 1.5,
    spanGaps: true,
    points: { show: true, size: 5, fill: accent },
  }
  return [{}, bars(colours['--bad']), bars(colours['--ok']), rate]
}

/** Draw a band behind the selected run. */
function markSelected(plot: uPlot, { history, selected }: Latest, colour: string): void {
  const index = history.runs.findIndex((run) => run.id === selected)
  if (index < 0) return
  const from = plot.valToPos(index - 0.45, 'x', true)
  const to = plot.valToPos(index + 0.45, 'x', true)
  plot.ctx.fillStyle = colour
  plot.ctx.fillRect(from, plot.bbox.top, to - from, plot.bbox.height)
}

function runLabel({ history }: Latest, index: number): string {
  const run = history.runs[index]
  return run ? `${run.id}` : ''
}

function short(value: number): string {
  return value >= 10_000 ? `${Math.round(value / 1000)}k` : `${value}`
}
