import type { Coverage } from '@/shared/bridge/codetteBridge'
import css from './coverage.module.css'

/** What makes the figures of a collection untrue, each with the command that mends it. */
export function Problems({ problems }: { problems: Coverage['problems'] }) {
  if (problems.length === 0) return null
  return (
    <ul className={css.problems} role="alert" data-testid="problems">
      {problems.map(({ kind, problem, remedy }) => (
        <li key={kind + problem}>
          {problem} <code>{remedy}</code>
        </li>
      ))}
    </ul>
  )
}
