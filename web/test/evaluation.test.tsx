import { renderToStaticMarkup } from 'react-dom/server'
import { expect, it } from 'vitest'
import { agreementOf, originOf, Report, verdictOf } from '@/features/coverage/Evaluation'
import type { ComparedQuery, Evaluation, ModeComparison } from '@/shared/bridge/codetteBridge'

function compared(overrides: Partial<ComparedQuery> = {}): ComparedQuery {
  return {
    query: 'muddy vocals',
    shared: 4,
    overlap: 0.4,
    rbo: 0.591,
    servingNdcg: null,
    candidateNdcg: null,
    serving: [{ key: 'a', title: 'Clear the mud' }],
    candidate: [{ key: 'b', title: 'Cut <the> lows' }],
    ...overrides,
  }
}

const ndcg = {
  serving: 0.71,
  candidate: 0.66,
  difference: -0.054,
  low: -0.083,
  high: -0.025,
  pValue: 0.0004,
  worse: [compared({ query: 'sibilance', servingNdcg: 1, candidateNdcg: 0.5 })],
}

function mode(overrides: Partial<ModeComparison> = {}): ModeComparison {
  return {
    mode: 'semantic',
    unchanged: 2,
    overlap: { mean: 0.527, median: 0.5, p10: 0.3, histogram: [0, 0, 0, 0, 7, 3, 0, 0, 0, 0, 2] },
    rbo: { mean: 0.53, median: 0.54, p10: 0.32 },
    moved: [compared()],
    ndcg: null,
    ...overrides,
  }
}

function evaluation(overrides: Partial<Evaluation> = {}): Evaluation {
  return {
    madeAt: '2026-11-30T19:21:53Z',
    serving: { collection: 'docs', model: 'local/small (384 dimensions)' },
    candidate: {
      collection: 'docs@next',
      model: 'openai/large (1024 dimensions)',
      vectors: 292,
      rows: 292,
      complete: true,
    },
    source: 'kept',
    name: null,
    queries: 12,
    modes: [mode(), mode({ mode: 'hybrid', moved: [] })],
    ...overrides,
  }
}

const html = (result: Evaluation) => renderToStaticMarkup(<Report evaluation={result} />)

it('shows the figures of each mode and both sides of a query', () => {
  const page = html(evaluation())
  for (const text of ['semantic', 'hybrid', '0.53', '2 of 12', 'muddy vocals', 'Clear the mud']) {
    expect(page).toContain(text)
  }
  expect(page).toContain('Cut &lt;the&gt; lows')
  expect(page).toContain('Queries by shared rows, semantic: 4 rows: 7, 5 rows: 3, 10 rows: 2')
  expect(page).toContain('Moved most, semantic')
  expect(page).not.toContain('Moved most, hybrid')
  expect(page).not.toContain('nDCG')
  expect(page).not.toContain('Only')
})

it('shows nDCG and what lost most on a judged set', () => {
  const page = html(evaluation({ source: 'judged', name: 'questions', modes: [mode({ ndcg })] }))
  expect(page).toContain('12 queries of questions')
  expect(page).toContain('0.71 to 0.66')
  expect(page).toContain('Lost most, semantic')
  expect(page).toContain('nDCG 1.00 to 0.50, 4 of 10 rows in both')
})

it('warns of an incomplete candidate', () => {
  const { candidate } = evaluation()
  const page = html(
    evaluation({ candidate: { ...candidate, vectors: 1000, rows: 1200, complete: false } }),
  )
  expect(page).toContain('Only 1,000 of 1,200 rows')
})

it('says how certain a change of nDCG is', () => {
  expect(verdictOf(ndcg)).toBe('−0.05 (−0.08 to −0.03), worse')
  expect(verdictOf({ ...ndcg, difference: 0.05, low: 0.02, high: 0.08 })).toBe(
    '+0.05 (+0.02 to +0.08), better',
  )
  expect(verdictOf({ ...ndcg, pValue: 0.2 })).toContain('no clear change')
})

it('says which queries were compared and how far they agree', () => {
  expect(originOf(evaluation())).toBe('12 queries, the latest asked')
  expect(originOf(evaluation({ queries: 1, source: 'file', name: 'mine.txt' }))).toBe(
    '1 query of mine.txt',
  )
  expect(agreementOf(compared())).toBe('4 of 10 rows in both, correlation 0.59')
})
