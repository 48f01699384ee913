import { renderToStaticMarkup } from 'react-dom/server'
import { expect, it } from 'vitest'
import { ChangeState, summaryOf } from '@/features/coverage/ModelChange'
import { PlanFacts, priceOf, questionOf, requestOf } from '@/features/coverage/ModelChangeDialogs'
import type {
  Coverage,
  ModelChange,
  ModelChangePlan,
  ModelChangeStatus,
} from '@/shared/bridge/codetteBridge'

const change: ModelChange = {
  id: 3,
  name: 'docs',
  state: 'filling',
  formerModel: 'local/small@384',
  newModel: 'openai/large@3072',
  copies: false,
  frozen: false,
  startedAt: '2026-11-30T19:21:53Z',
  changedAt: '2026-11-30T19:21:53Z',
}

function status(overrides: Partial<ModelChangeStatus> = {}): ModelChangeStatus {
  return {
    collection: 'docs',
    change,
    target: {
      name: 'docs@next',
      role: 'filling',
      frozen: false,
      place: 'public.docs.embedding_2',
      model: { provider: 'openai', name: 'large', revision: 'v1', dimensions: 3072 },
      coverage: { embedded: 50, pending: 7, missing: 140, failed: 3, ratio: 0.25 } as Coverage,
    },
    running: true,
    stopped: null,
    permitted: ['continue', 'cancel'],
    models: ['openai/large'],
    ...overrides,
  }
}

const plan: ModelChangePlan = {
  collection: 'docs',
  copies: false,
  rows: 200,
  texts: 180,
  tokens: 12_000,
  dollars: 0.13,
  seconds: null,
  timeBasis: 'no earlier run to calculate it from',
  bytes: 3_400_000,
  differences: [{ name: 'model', present: 'local/small', new: 'openai/large' }],
}

it('says what is searched in every state', () => {
  const searched = (state: ModelChange['state'], frozen = false) =>
    summaryOf(status({ change: { ...change, state, frozen } }))
  for (const state of ['filling', 'indexing', 'ready', 'cancelling'] as const) {
    expect(searched(state)).toContain('local/small@384 is searched')
  }
  for (const state of ['serving', 'retiring'] as const) {
    expect(searched(state)).toContain('openai/large@3072 is searched')
  }
  expect(searched('serving', true)).toContain('are frozen')
  expect(searched('serving')).toContain('Edits also reach local/small@384')
  expect(searched('cancelled')).toContain('was cancelled')
  expect(summaryOf(status({ change: null }))).toBe('The model was not changed yet.')
})

it('shows how far the new vectors are, and why the server stopped', () => {
  const page = renderToStaticMarkup(<ChangeState status={status()} />)
  expect(page).toContain('aria-valuenow="25"')
  expect(page).toContain('50 embedded, 147 left, 3 failed')
  expect(page).not.toContain('role="alert"')
  const stopped = renderToStaticMarkup(
    <ChangeState status={status({ running: false, stopped: '3 rows are dead letters.' })} />,
  )
  expect(stopped).toContain('role="alert"')
  expect(stopped).toContain('3 rows are dead letters.')
})

it('shows the price of a plan before it begins', () => {
  expect(priceOf(plan)).toBe('180 texts, 12,000 tokens, about $0.13')
  expect(priceOf({ ...plan, dollars: 0 })).toContain('free')
  expect(priceOf({ ...plan, dollars: null })).toContain('the price is not known')
  expect(priceOf({ ...plan, copies: true })).toContain('computed from the present ones')
  const page = renderToStaticMarkup(<PlanFacts plan={plan} />)
  for (const text of ['local/small → openai/large', 'about $0.13', '4 MB more', 'unknown']) {
    expect(page).toContain(text)
  }
  expect(renderToStaticMarkup(<PlanFacts plan={{ ...plan, copies: true }} />)).not.toContain('Time')
})

it('sends the fields that are filled in', () => {
  const form = new FormData()
  form.set('model', ' openai/large ')
  form.set('columnType', '')
  form.set('passages', 'none')
  expect(requestOf(form)).toEqual({ model: 'openai/large', passages: 'none' })
})

it('says which vectors a step drops', () => {
  expect(questionOf('retire', change)).toContain('The vectors of local/small@384 are dropped')
  expect(questionOf('cancel', change)).toContain('The vectors of openai/large@3072 are dropped')
  expect(questionOf('cutover', change)).not.toContain('dropped')
  expect(questionOf('rollback', change)).not.toContain('dropped')
})
