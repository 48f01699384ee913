import { useCallback } from 'react'
import { useLocation } from 'wouter'
import { NOTHING } from '@/shared/actions/registry'
import { useAction, useFacts } from '@/shared/actions/useAction'
import { useBridge } from '@/shared/bridge/context'
import { copyText } from '@/shared/clipboard'
import { notify } from '@/shared/ui/Notices'
import { addressOf, carried, type SetOptions, writeState } from '@/shared/url'
import type { Answer } from './answers'
import {
  type Applied,
  apply,
  findApplied,
  named,
  parametersText,
  revert,
  type Suggested,
  useApplied,
} from './applied'
import { type AskState, askSchema, MODES, MOST, PAGE } from './state'
import type { Answers } from './useAnswers'

type Change = (changes: Partial<AskState>, options?: SetOptions) => void

/** What the filters and the field do; undo goes back to the address as it was. */
export function useSearchActions(state: AskState, set: Change): void {
  const [, navigate] = useLocation()
  const change = useCallback(
    (changes: Partial<AskState>) => {
      const before = window.location.pathname + window.location.search
      set({ n: PAGE, key: null, nearest: 'no', ...changes }, { push: true })
      return window.location.pathname + window.location.search === before ? NOTHING : before
    },
    [set],
  )
  const undo = (_: unknown, before: string | typeof NOTHING) => {
    if (typeof before === 'string') navigate(before)
  }
  useAction('search.setQuery', ({ query }) => {
    set({ q: query, key: null, n: PAGE, nearest: 'no' })
  })
  useAction('search.setFilter', ({ filter, value }) => change(filterChange(filter, value)), {
    undo,
  })
  useAction('search.setMode', ({ mode }) => change({ mode }), { undo })
  useAction(
    'search.cycleMode',
    () => change({ mode: MODES[(MODES.indexOf(state.mode) + 1) % MODES.length] }),
    { undo },
  )
  const cleared = {
    q: '',
    category: null,
    track: null,
    genre: null,
    bpm: null,
    mode: 'hybrid',
  } as const
  useAction('search.clear', () => change(cleared), { undo })
  useAction('search.nearest', () => set({ nearest: 'yes' }))
  useAction('search.more', () => set({ n: Math.min(MOST, (state.n ?? PAGE) + PAGE) }))
}

function filterChange(
  filter: 'category' | 'track' | 'genre' | 'bpm',
  value: string | null,
): Partial<AskState> {
  if (filter !== 'bpm') return { [filter]: value || null }
  const bpm = value ? Number(value) : null
  return { bpm: bpm !== null && Number.isFinite(bpm) ? bpm : null }
}

/** Moving among results, and what is done with the selected one. */
export function useResultActions(
  list: readonly Answer[],
  selected: Answer | undefined,
  set: Change,
  focus: (key: string) => void,
): void {
  const [, navigate] = useLocation()
  const move = (by: number) => {
    const at = selected ? list.indexOf(selected) + by : 0
    const next = list[Math.min(list.length - 1, Math.max(0, at))]
    if (!next) return
    set({ key: next.key })
    focus(next.key)
  }
  useAction('results.next', () => move(1))
  useAction('results.previous', () => move(-1))
  useAction('results.select', ({ key }) => set({ key }))
  useAction('results.showOnMap', () => navigate(addressOf('/map', carried(window.location.search))))
  useAction('suggestion.copyLink', async ({ key = selected?.key }) => {
    const query = writeState(askSchema, window.location.search, { key: key ?? null })
    await copyText(`${window.location.origin}${addressOf('/ask', query)}`)
    notify('The link to this result is copied.', 'ok')
  })
  useAction('suggestion.copy', async ({ key = selected?.key }) => {
    const found = list.find((each) => each.key === key)
    if (!found) return
    await copyText(parametersText(found.parameters))
    notify(`The parameters of “${found.title}” are copied.`, 'ok')
  })
  useApplyActions(selected)
}

function useApplyActions(selected: Answer | undefined): void {
  const bridge = useBridge()
  const back = async (key: string) => {
    const before = await revert(bridge, key)
    return before ?? NOTHING
  }
  const again = async (suggested: Suggested) => told(await apply(bridge, suggested))
  useAction(
    'suggestion.apply',
    async (given) => {
      const suggested = { ...pick(selected), ...given } as Partial<Suggested>
      if (!suggested.key || !suggested.parameters || findApplied(suggested.key)) return NOTHING
      return again({
        key: suggested.key,
        title: suggested.title ?? '',
        parameters: suggested.parameters,
      })
    },
    { undo: ({ key }, done) => back(key ?? (done as Applied).key) },
  )
  useAction('suggestion.revert', ({ key = selected?.key }) => (key ? back(key) : NOTHING), {
    undo: (_, before) => typeof before === 'object' && again(before),
  })
}

function pick(answer: Answer | undefined): Suggested | undefined {
  return answer && { key: answer.key, title: answer.title, parameters: answer.parameters }
}

function told(done: Applied): Applied {
  if (done.state === 'sent')
    notify(`Sent to ${named(done.hosts)}: ${done.title}.`, 'ok', 'history.undo')
  if (done.state === 'copied') {
    notify(
      `No host is connected. The parameters of “${done.title}” are copied.`,
      'ok',
      'history.undo',
    )
  }
  if (done.state === 'waiting') {
    notify(`“${done.title}” is sent once the server is back.`, 'info', 'history.undo')
  }
  return done
}

export function useAskFacts(
  state: AskState,
  { list, more, keptBack }: Answers,
  selected: Answer | undefined,
): void {
  const applied = useApplied()
  const isApplied = applied.some(({ key }) => key === selected?.key)
  const hasParameters = selected !== undefined && Object.keys(selected.parameters).length > 0
  const filtered = Boolean(
    state.category || state.track || state.genre || state.bpm || state.mode !== 'hybrid',
  )
  useFacts({
    'search.active': state.q !== '' || filtered,
    'results.any': list.length > 0,
    'results.keptBack': keptBack,
    'results.more': more && (state.n ?? PAGE) < MOST,
    'result.selected': selected !== undefined,
    'result.parameters': hasParameters,
    'result.notApplied': hasParameters && !isApplied,
    'result.applied': isApplied,
  })
}
