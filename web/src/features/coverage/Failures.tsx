import { runAction, useCan } from '@/shared/actions/useAction'
import type { Failures as FailuresPage } from '@/shared/bridge/codetteBridge'
import { ActionButton, Button, EmptyState, ErrorState, Panel, Skeleton } from '@/shared/ui'
import css from './coverage.module.css'
import { count, dateTime } from './format'

interface Props {
  page: FailuresPage | undefined
  error: unknown
  onRetry: () => void
  after: string | null
}

/** The dead letters with their errors. */
export function Failures({ page, error, onRetry, after }: Props) {
  const total = page?.total ?? 0
  const actions = total > 0 && (
    <ActionButton action="failure.retryAll" size="small" data-testid="retry-all">
      Retry all {count(total)}
    </ActionButton>
  )
  return (
    <Panel title="Dead letters" actions={actions} className={css.failures}>
      {error ? (
        <ErrorState error={error} onRetry={onRetry} />
      ) : (
        <Content page={page} after={after} />
      )}
    </Panel>
  )
}

function Content({ page, after }: { page: FailuresPage | undefined; after: string | null }) {
  const can = useCan('failure.retry')
  if (!page) return <Skeleton height={120} />
  if (page.failures.length === 0 && after === null) {
    return (
      <EmptyState title="No dead letters">
        Rows that fail all retries appear here with their error.
      </EmptyState>
    )
  }
  return (
    <>
      <ul className={css.letters} data-testid="failures">
        {page.failures.map((failure) => (
          <li key={`${failure.collection} ${failure.key}`}>
            <div className={css.letterHead}>
              <code className={css.key}>{failure.key}</code>
              <span className={css.kind}>{failure.kind}</span>
              <Button
                size="small"
                aria-disabled={!can}
                aria-label={`Retry ${failure.key}`}
                onClick={() =>
                  void runAction('failure.retry', {
                    collection: failure.collection,
                    key: failure.key,
                  })
                }
              >
                Retry
              </Button>
            </div>
            <p className={css.error}>{failure.error}</p>
            <p className={css.small}>
              {failure.attempts} {failure.attempts === 1 ? 'attempt' : 'attempts'},{' '}
              {dateTime(failure.failedAt)}
              {failure.runId !== null && `, backfill ${failure.runId}`}
            </p>
          </li>
        ))}
      </ul>
      <Pages next={page.next} after={after} />
    </>
  )
}

function Pages({ next, after }: { next: string | null; after: string | null }) {
  if (next === null && after === null) return null
  return (
    <div className={css.pages}>
      {after !== null && (
        <Button size="small" onClick={() => void runAction('failure.page', { after: null })}>
          First page
        </Button>
      )}
      {next !== null && (
        <Button size="small" onClick={() => void runAction('failure.page', { after: next })}>
          Next 100
        </Button>
      )}
    </div>
  )
}
