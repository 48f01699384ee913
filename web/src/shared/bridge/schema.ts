/** Valibot schemas of the camelCased responses, and the types inferred from them. */
import * as v from 'valibot'

const record = v.record(v.string(), v.unknown())

export const problem = v.object({ kind: v.string(), problem: v.string(), remedy: v.string() })

export const coverage = v.object({
  rows: v.number(),
  embedded: v.number(),
  blank: v.number(),
  /** Rows outside the condition of the collection, which `rows` leaves out. */
  excluded: v.optional(v.number(), 0),
  pending: v.number(),
  failed: v.number(),
  missing: v.number(),
  inFlight: v.number(),
  workers: v.number(),
  /** Rows per second over all workers. */
  rate: v.number(),
  /** Age of the oldest pending row. */
  lagSeconds: v.number(),
  empty: v.optional(v.boolean(), false),
  /** Embedded rows over rows that have text, or null if no row has text. */
  ratio: v.nullable(v.number()),
  complete: v.boolean(),
  /** Seconds until no row remains, or null if nothing is being stored. */
  etaSeconds: v.nullable(v.number()),
  /** Pending rows that have an outdated vector, or null if the server did not count them. */
  stale: v.nullish(v.number(), null),
  /** What makes these figures untrue. */
  problems: v.optional(v.array(problem), []),
})

export const model = v.object({
  provider: v.string(),
  name: v.string(),
  revision: v.string(),
  dimensions: v.number(),
})

export const modelChange = v.object({
  id: v.number(),
  name: v.string(),
  /** In `serving`, the new vectors are searched; before, the former ones. */
  state: v.picklist([
    'filling',
    'indexing',
    'ready',
    'serving',
    'retiring',
    'retired',
    'cancelling',
    'cancelled',
  ]),
  formerModel: v.string(),
  newModel: v.string(),
  copies: v.boolean(),
  frozen: v.boolean(),
  startedAt: v.string(),
  changedAt: v.string(),
})

/** The vectors of a change of the model that are not searched. */
export const target = v.object({
  name: v.string(),
  role: v.picklist(['filling', 'retired']),
  frozen: v.boolean(),
  place: v.string(),
  model,
  coverage,
})

export const modelChangeStatus = v.object({
  collection: v.string(),
  /** The open change, or the last one. */
  change: v.nullable(modelChange),
  target: v.nullable(target),
  /** Whether the server fills the new vectors now. */
  running: v.boolean(),
  stopped: v.nullable(v.string()),
  permitted: v.array(v.picklist(['continue', 'cutover', 'rollback', 'retire', 'cancel'])),
  models: v.array(v.string()),
})

export const modelChangePlan = v.object({
  collection: v.string(),
  copies: v.boolean(),
  rows: v.number(),
  texts: v.number(),
  tokens: v.number(),
  /** Null if the price is not known. */
  dollars: v.nullable(v.number()),
  seconds: v.nullable(v.number()),
  timeBasis: v.string(),
  bytes: v.number(),
  differences: v.array(v.object({ name: v.string(), present: v.string(), new: v.string() })),
})

export const collectionStatus = v.object({
  name: v.string(),
  table: v.string(),
  keyColumns: v.array(v.string()),
  /** Null if the text is an SQL expression. */
  textTemplate: v.nullish(v.string(), null),
  embeddingColumn: v.string(),
  model,
  /** The end of the model that its provider has announced. */
  modelEnd: v.nullish(problem, null),
  coverage,
  /** The open change of the model. */
  change: v.nullish(modelChange, null),
  target: v.nullish(target, null),
})

export const status = v.object({
  server: v.object({
    name: v.string(),
    version: v.string(),
    startedAt: v.string(),
    uptimeSeconds: v.number(),
    worker: v.boolean(),
  }),
  auth: v.object({ keyRequiredForWrites: v.boolean(), keyRequiredForReads: v.boolean() }),
  database: v.object({ where: v.string(), ok: v.boolean() }),
  collections: v.array(collectionStatus),
  clients: v.number(),
  hosts: v.optional(v.array(v.string()), []),
})

export const coverages = v.object({
  collections: v.array(v.object({ name: v.string(), coverage })),
})

export const run = v.object({
  id: v.number(),
  collection: v.string(),
  model: v.string(),
  state: v.picklist(['running', 'cancelling', 'completed', 'cancelled', 'interrupted']),
  scanned: v.number(),
  due: v.number(),
  embedded: v.number(),
  reused: v.number(),
  failed: v.number(),
  batches: v.number(),
  tokens: v.number(),
  startedAt: v.string(),
  finishedAt: v.nullable(v.string()),
  seconds: v.number(),
  settings: record,
})
export const runs = v.object({ runs: v.array(run) })
export const oneRun = v.object({ run })

export const failure = v.object({
  collection: v.string(),
  key: v.string(),
  kind: v.string(),
  error: v.string(),
  attempts: v.number(),
  failedAt: v.string(),
  runId: v.nullable(v.number()),
})
export const failures = v.object({
  failures: v.array(failure),
  total: v.number(),
  next: v.nullable(v.string()),
})
export const retried = v.object({ retried: v.number() })

export const mode = v.picklist(['hybrid', 'semantic', 'keyword'])
export const hit = v.object({
  key: v.string(),
  score: v.number(),
  /**
   * Cosine similarity (dense) and BM25 score (keyword). A missing ranking did not return the row.
   */
  parts: v.record(v.string(), v.number()),
  content: v.string(),
  /** Escaped HTML with `mark` elements. */
  snippet: v.nullable(v.string()),
  row: record,
})
export const searchResults = v.object({
  collection: v.string(),
  query: v.string(),
  mode,
  hits: v.array(hit),
  limit: v.number(),
  offset: v.number(),
  model: v.string(),
  tookMs: v.number(),
})

const rankedRow = v.object({ key: v.string(), title: v.string() })
export const comparedQuery = v.object({
  query: v.string(),
  /** Rows that are among the first ten of both. */
  shared: v.number(),
  overlap: v.number(),
  /** Rank-biased overlap, 0 to 1. */
  rbo: v.number(),
  servingNdcg: v.nullable(v.number()),
  candidateNdcg: v.nullable(v.number()),
  serving: v.array(rankedRow),
  candidate: v.array(rankedRow),
})
const spread = { mean: v.number(), median: v.number(), p10: v.number() }
export const modeComparison = v.object({
  mode,
  /** Queries with the same first ten rows in the same order. */
  unchanged: v.number(),
  /** `histogram` counts queries by the rows that both have, from 0 to 10. */
  overlap: v.object({ ...spread, histogram: v.array(v.number()) }),
  rbo: v.object(spread),
  moved: v.array(comparedQuery),
  /** nDCG@10 with a paired bootstrap of candidate minus serving; null without a judged set. */
  ndcg: v.nullable(
    v.object({
      serving: v.number(),
      candidate: v.number(),
      difference: v.number(),
      low: v.number(),
      high: v.number(),
      pValue: v.number(),
      worse: v.array(comparedQuery),
    }),
  ),
})
export const evaluation = v.object({
  madeAt: v.string(),
  serving: v.object({ collection: v.string(), model: v.string() }),
  candidate: v.object({
    collection: v.string(),
    model: v.string(),
    vectors: v.number(),
    rows: v.number(),
    complete: v.boolean(),
  }),
  source: v.picklist(['kept', 'file', 'judged']),
  name: v.nullable(v.string()),
  queries: v.number(),
  modes: v.array(modeComparison),
})
export const latestEvaluation = v.object({
  evaluation: v.nullable(evaluation),
  running: v.boolean(),
  failed: v.nullable(v.string()),
})

export const suggestion = v.object({
  id: v.string(),
  type: v.string(),
  title: v.string(),
  description: v.string(),
  parameters: record,
  confidence: v.nullable(v.number()),
  category: v.nullable(v.string()),
  score: v.number(),
  reason: v.string(),
})
export const suggestions = v.object({
  suggestions: v.array(suggestion),
  context: record,
  timestamp: v.string(),
  /** The reason for an empty list. */
  message: v.nullish(v.string(), null),
})

export const facets = v.object({
  collection: v.string(),
  facets: v.record(v.string(), v.array(v.object({ value: v.string(), count: v.number() }))),
})

export const collectionMap = v.object({
  collection: v.string(),
  method: v.string(),
  total: v.number(),
  count: v.number(),
  keys: v.array(v.string()),
  x: v.array(v.number()),
  y: v.array(v.number()),
  titles: v.array(v.string()),
  categories: v.array(v.nullable(v.string())),
  computedAt: v.string(),
})
export const place = v.object({ x: v.number(), y: v.number() })

export const actionEntry = v.object({
  id: v.number(),
  name: v.string(),
  title: v.string(),
  category: v.string(),
  description: v.string(),
  contexts: v.array(v.string()),
  shortcut: v.nullable(v.string()),
  undoable: v.boolean(),
})
export const actions = v.object({ actions: v.array(actionEntry) })

export const connected = v.object({
  clientId: v.string(),
  serverVersion: v.string(),
  heartbeatSeconds: v.number(),
})
export const runProgress = v.object({ run, coverage })
export const coverageChanged = v.object({ collection: v.string(), coverage })
export const failureAdded = v.object({ collection: v.string(), failure })
export const action = v.object({
  actionId: v.union([v.number(), v.string()]),
  name: v.nullish(v.string(), null),
  parameters: record,
  source: v.string(),
})
/** A server without roles does not send `hosts`. */
export const actionAck = v.object({ delivered: v.number(), hosts: v.optional(v.number()) })
export const hosts = v.object({ hosts: v.array(v.string()) })
export const frameError = v.object({ title: v.string(), detail: v.string(), status: v.number() })

export type Coverage = v.InferOutput<typeof coverage>
export type Model = v.InferOutput<typeof model>
export type CollectionStatus = v.InferOutput<typeof collectionStatus>
export type ModelChange = v.InferOutput<typeof modelChange>
export type ModelChangeStatus = v.InferOutput<typeof modelChangeStatus>
export type ModelChangePlan = v.InferOutput<typeof modelChangePlan>
export type Status = v.InferOutput<typeof status>
export type Coverages = v.InferOutput<typeof coverages>
export type Run = v.InferOutput<typeof run>
export type Failure = v.InferOutput<typeof failure>
export type Failures = v.InferOutput<typeof failures>
export type Mode = v.InferOutput<typeof mode>
export type Hit = v.InferOutput<typeof hit>
export type SearchResults = v.InferOutput<typeof searchResults>
export type ComparedQuery = v.InferOutput<typeof comparedQuery>
export type ModeComparison = v.InferOutput<typeof modeComparison>
export type Evaluation = v.InferOutput<typeof evaluation>
export type LatestEvaluation = v.InferOutput<typeof latestEvaluation>
export type Suggestion = v.InferOutput<typeof suggestion>
export type Suggestions = v.InferOutput<typeof suggestions>
export type Facets = v.InferOutput<typeof facets>
export type CollectionMap = v.InferOutput<typeof collectionMap>
export type Place = v.InferOutput<typeof place>
export type ActionEntry = v.InferOutput<typeof actionEntry>
export type ReceivedAction = v.InferOutput<typeof action>
