import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useAction } from '@/shared/actions/useAction'
import { evaluationQuery } from '@/shared/api/queries'
import {
  type ComparedQuery,
  type Evaluation as EvaluationResult,
  type LatestEvaluation,
  type ModeComparison,
  OfflineError,
} from '@/shared/bridge/codetteBridge'
import { useBridge } from '@/shared/bridge/context'
import { score } from '@/shared/format/numbers'
import { ActionButton, EmptyState, ErrorState, Panel, Skeleton } from '@/shared/ui'
import { notify } from '@/shared/ui/Notices'
import css from './evaluation.module.css'
import { count, dateTime } from './format'

interface Props {
  collection: string
  /** Whether a change of the model fills a collection that is to replace this one. */
  hasCandidate: boolean
}

/**
 * The latest comparison of a collection with the one that is to replace it. Nothing is shown of a
 * collection without a comparison and without a candidate.
 */
export function Evaluation({ collection, hasCandidate }: Props) {
  const bridge = useBridge()
  const queries = useQueryClient()
  const query = evaluationQuery(bridge, collection)
  const { data, error, refetch } = useQuery(query)
  useAction(
    'evaluation.start',
    async () => {
      const started = await bridge.startEvaluation(collection)
      queries.setQueryData<LatestEvaluation>(query.queryKey, started)
      notify(`Comparing ${collection} with ${collection}@next`)
    },
    { enabled: hasCandidate && !data?.running },
  )
  if (!hasCandidate && !data?.evaluation && !data?.running) return null
  const actions = hasCandidate && (
    <ActionButton action="evaluation.start" size="small" data-testid="evaluate">
      {data?.running ? 'Comparing' : 'Compare models'}
    </ActionButton>
  )
  return (
    <Panel title="Comparison of models" actions={actions}>
      {data ? (
        <Latest latest={data} />
      ) : error && !(error instanceof OfflineError) ? (
        <ErrorState error={error} onRetry={() => void refetch()} />
      ) : (
        <Skeleton height={120} />
      )}
    </Panel>
  )
}

function Latest({ latest: { evaluation, running, failed } }: { latest: LatestEvaluation }) {
  return (
    <>
      {running && <p role="status">A comparison is running.</p>}
      {failed && (
        <p role="alert" className={css.failed}>
          The last comparison failed: {failed}
        </p>
      )}
      {evaluation ? (
        <Report evaluation={evaluation} />
      ) : (
        !running && (
          <EmptyState title="No comparison yet">
            A comparison shows how the rankings of two models differ.
          </EmptyState>
        )
      )}
    </>
  )
}

/** A stored comparison: its figures by mode, then the queries that changed most. */
export function Report({ evaluation }: { evaluation: EvaluationResult }) {
  const { serving, candidate, modes } = evaluation
  return (
    <div className={css.report} data-testid="evaluation">
      <p>
        {serving.model} against {candidate.model}
        <span className={css.small}>
          {' '}
          ({candidate.collection}), {originOf(evaluation)}, {dateTime(evaluation.madeAt)}
        </span>
      </p>
      {!candidate.complete && (
        <p className={css.warn}>
          Only {count(candidate.vectors)} of {count(candidate.rows)} rows of the candidate have
          vectors.
        </p>
      )}
      <Figures modes={modes} queries={evaluation.queries} />
      {modes.map(({ mode, ndcg, moved }) => (
        <div key={mode} className={css.lists}>
          {ndcg && <Queries title={`Lost most, ${mode}`} queries={ndcg.worse} />}
          <Queries title={`Moved most, ${mode}`} queries={moved} />
        </div>
      ))}
    </div>
  )
}

/** Say which queries were compared. */
export function originOf({ queries, source, name }: EvaluationResult): string {
  const number = `${count(queries)} ${queries === 1 ? 'query' : 'queries'}`
  return source === 'kept' ? `${number}, the latest asked` : `${number} of ${name}`
}

/** Say whether the candidate ranks better, and how certain that is. */
export function verdictOf(ndcg: NonNullable<ModeComparison['ndcg']>): string {
  const { difference, low, high, pValue } = ndcg
  const sign = (value: number) => (value > 0 ? `+${score(value)}` : score(value))
  const result = pValue >= 0.05 ? 'no clear change' : difference > 0 ? 'better' : 'worse'
  return `${sign(difference)} (${sign(low)} to ${sign(high)}), ${result}`
}

function Figures({ modes, queries }: { modes: readonly ModeComparison[]; queries: number }) {
  const judged = modes.some(({ ndcg }) => ndcg !== null)
  const columns = ['Mode', 'Overlap@10', 'Shared rows', 'Rank correlation', 'No change']
  if (judged) columns.push('nDCG@10', 'Change of nDCG')
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: the keyboard scrolls a wide table
    <section className={css.scroller} aria-label="Figures of the comparison" tabIndex={0}>
      <table className={css.figures}>
        <caption className="hidden-text">Agreement of the first ten rows by search mode</caption>
        <thead>
          <tr>
            {columns.map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {modes.map((each) => (
            <tr key={each.mode}>
              <th scope="row">{each.mode}</th>
              <td>{score(each.overlap.mean)}</td>
              <td>
                <Histogram counts={each.overlap.histogram} mode={each.mode} />
              </td>
              <td>{score(each.rbo.mean)}</td>
              <td>
                {count(each.unchanged)} of {count(queries)}
              </td>
              {each.ndcg && (
                <>
                  <td>
                    {score(each.ndcg.serving)} to {score(each.ndcg.candidate)}
                  </td>
                  <td>{verdictOf(each.ndcg)}</td>
                </>
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  )
}

/** Queries by how many of the first ten rows both have, as bars from 0 to 10. */
function Histogram({ counts, mode }: { counts: readonly number[]; mode: string }) {
  const most = Math.max(1, ...counts)
  const label = counts.flatMap((n, shared) => (n ? [`${shared} rows: ${count(n)}`] : [])).join(', ')
  return (
    <div
      role="img"
      className={css.histogram}
      aria-label={`Queries by shared rows, ${mode}: ${label}`}
    >
      {counts.map((n, shared) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: the index is the number of shared rows
        <span key={shared} style={{ height: `${(100 * n) / most}%` }} />
      ))}
    </div>
  )
}

function Queries({ title, queries }: { title: string; queries: readonly ComparedQuery[] }) {
  if (queries.length === 0) return null
  return (
    <details className={css.queries}>
      <summary>
        {title} <span className={css.small}>{count(queries.length)}</span>
      </summary>
      <ul>
        {queries.map((each) => (
          <li key={each.query}>
            <p className={css.query}>{each.query}</p>
            <p className={css.small}>{agreementOf(each)}</p>
            <div className={css.sides}>
              <Rows name="Serving" rows={each.serving} />
              <Rows name="Candidate" rows={each.candidate} />
            </div>
          </li>
        ))}
      </ul>
    </details>
  )
}

/** Say how far the two rankings of a query agree. */
export function agreementOf({ shared, rbo, servingNdcg, candidateNdcg }: ComparedQuery): string {
  const agreement = `${shared} of 10 rows in both, correlation ${score(rbo)}`
  if (servingNdcg === null || candidateNdcg === null) return agreement
  return `nDCG ${score(servingNdcg)} to ${score(candidateNdcg)}, ${agreement}`
}

function Rows({ name, rows }: { name: string; rows: ComparedQuery['serving'] }) {
  return (
    <div>
      <h3 className={css.side}>{name}</h3>
      {rows.length === 0 ? (
        <p className="quiet">No rows</p>
      ) : (
        <ol className={css.rows}>
          {rows.map(({ key, title }) => (
            <li key={key}>
              {title} <code className={css.small}>{key}</code>
            </li>
          ))}
        </ol>
      )}
    </div>
  )
}
