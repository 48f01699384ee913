import { Dialog as BaseDialog } from '@base-ui/react/dialog'
import { Tooltip as BaseTooltip } from '@base-ui/react/tooltip'
import {
  type ButtonHTMLAttributes,
  type CSSProperties,
  Fragment,
  type ReactElement,
  type ReactNode,
  type Ref,
} from 'react'
import { type ActionName, type ActionParameters, actionByName } from '../actions/registry'
import { shortcuts, useShortcutOf } from '../actions/shortcuts'
import { runAction, useCan } from '../actions/useAction'
import { OfflineError, ProblemError } from '../bridge/codetteBridge'
import { useConnection } from '../bridge/context'
import css from './ui.module.css'

export function cx(...names: (string | false | null | undefined)[]): string {
  return names.filter(Boolean).join(' ')
}

export interface ButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  kind?: 'plain' | 'primary' | 'ghost' | 'danger'
  size?: 'normal' | 'small' | 'icon'
  ref?: Ref<HTMLButtonElement>
}

export function Button({ kind = 'plain', size = 'normal', className, ...rest }: ButtonProps) {
  const look = [kind !== 'plain' && css[kind], size !== 'normal' && css[size]]
  return <button type="button" className={cx(css.button, ...look, className)} {...rest} />
}

/** A button that runs an action. Its title, shortcut and state come from the registry. */
export function ActionButton<N extends ActionName>({
  action,
  parameters,
  disabled = false,
  children,
  ...rest
}: Omit<ButtonProps, 'onClick' | 'action'> & { action: N; parameters?: ActionParameters[N] }) {
  const can = useCan(action, parameters !== undefined) && !disabled
  const definition = actionByName.get(action)
  const title = definition?.title ?? action
  return (
    <Tooltip text={<ActionHint action={action} />}>
      <Button
        aria-disabled={!can}
        aria-label={children ? undefined : title}
        {...rest}
        onClick={() => can && void runAction(action, parameters)}
      >
        {children ?? title}
      </Button>
    </Tooltip>
  )
}

function ActionHint({ action }: { action: ActionName }) {
  const keys = useShortcutOf(action)
  return (
    <>
      {actionByName.get(action)?.description} {keys && <Keys shortcut={keys} />}
    </>
  )
}

/** A shortcut as keycaps. */
export function Keys({ shortcut }: { shortcut: string }) {
  return (
    <span className={css.keys}>
      {shortcuts.keyLabels(shortcut).map((key, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: a key has no identity but its position
        <Fragment key={index}>
          {index > 0 && ' '}
          <kbd>{key}</kbd>
        </Fragment>
      ))}
    </span>
  )
}

export interface ChipProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  /** A custom property such as --cat-3. */
  colour?: string
  count?: number
  pressed?: boolean
}

/** A toggle button, or a label if `onClick` is missing. */
export function Chip({ colour, count, pressed, children, onClick, className, ...rest }: ChipProps) {
  const content = (
    <>
      {colour && (
        <span className={css.dot} style={{ '--dot': `var(${colour})` } as CSSProperties} />
      )}
      {children}
      {count !== undefined && <span className={css.count}>{count}</span>}
    </>
  )
  if (!onClick) return <span className={cx(css.chip, className)}>{content}</span>
  return (
    <button
      type="button"
      className={cx(css.chip, className)}
      aria-pressed={pressed}
      onClick={onClick}
      {...rest}
    >
      {content}
    </button>
  )
}

/** A meter with a value between 0 and 1. */
export function Meter({ value, label, colour }: { value: number; label: string; colour?: string }) {
  const percent = Math.round(100 * Math.min(1, Math.max(0, value)))
  const style = { width: `${percent}%`, ...(colour && { '--meter': `var(${colour})` }) }
  return (
    // biome-ignore lint/a11y/useSemanticElements: browsers style the meter element differently
    <div
      className={css.meterTrack}
      role="meter"
      aria-label={label}
      aria-valuenow={percent}
      aria-valuemin={0}
      aria-valuemax={100}
    >
      <div className={css.meterFill} style={style as CSSProperties} />
    </div>
  )
}

export function Panel({
  title,
  actions,
  children,
  className,
  busy,
  ref,
}: {
  title?: ReactNode
  actions?: ReactNode
  children: ReactNode
  className?: string | undefined
  /** Whether the content is loading. */
  busy?: boolean
  ref?: Ref<HTMLElement>
}) {
  return (
    <section ref={ref} className={cx(css.panel, className)} aria-busy={busy}>
      {(title || actions) && (
        <header className={css.panelHead}>
          {title && <h2>{title}</h2>}
          {actions}
        </header>
      )}
      <div className={css.panelBody}>{children}</div>
    </section>
  )
}

interface StateProps {
  title: string
  children?: ReactNode
  actions?: ReactNode
}

export function EmptyState({ title, children, actions }: StateProps) {
  return (
    <div className={css.state}>
      <h2>{title}</h2>
      {children && <p>{children}</p>}
      {actions && <div className={css.stateActions}>{actions}</div>}
    </div>
  )
}

/** The server's explanation of an error, and the available remedies. */
export function ErrorState({
  error,
  onRetry,
  actions,
}: {
  error: unknown
  onRetry?: () => void
  actions?: ReactNode
}) {
  const { online } = useConnection()
  // The offline bar at the top already reports the lost connection.
  if (error instanceof OfflineError && !online) return <OfflineState />
  const needsKey = error instanceof ProblemError && error.needsKey
  const requestId = error instanceof ProblemError ? error.requestId : null
  return (
    <div className={cx(css.state, css.errorState)} role="alert">
      <h2>{titleOf(error)}</h2>
      <p>{error instanceof Error ? error.message : String(error)}</p>
      {requestId && <p className="quiet">Request ID {requestId}</p>}
      <div className={css.stateActions}>
        {onRetry && <Button onClick={onRetry}>Try again</Button>}
        {needsKey && <ActionButton action="session.enterKey" />}
        {actions}
      </div>
    </div>
  )
}

function OfflineState() {
  return (
    <EmptyState title="Waiting for the server">
      This view loads when the connection is back.
    </EmptyState>
  )
}

function titleOf(error: unknown): string {
  if (error instanceof ProblemError) return error.title
  return error instanceof OfflineError ? 'Server unreachable' : 'Something went wrong'
}

export function Skeleton({ height, width = '100%' }: { height: number; width?: number | string }) {
  return <div className={css.skeleton} style={{ height, width }} aria-hidden="true" />
}

export function Tooltip({ text, children }: { text: ReactNode; children: ReactElement }) {
  return (
    <BaseTooltip.Root>
      <BaseTooltip.Trigger render={children} />
      <BaseTooltip.Portal>
        <BaseTooltip.Positioner sideOffset={6} className={css.positioner}>
          <BaseTooltip.Popup className={css.tooltip}>{text}</BaseTooltip.Popup>
        </BaseTooltip.Positioner>
      </BaseTooltip.Portal>
    </BaseTooltip.Root>
  )
}

export function TooltipProvider({ children }: { children: ReactNode }) {
  return <BaseTooltip.Provider delay={500}>{children}</BaseTooltip.Provider>
}

export function Dialog({
  open,
  onOpenChange,
  title,
  hideTitle = false,
  bare = false,
  children,
}: {
  open: boolean
  onOpenChange: (open: boolean) => void
  title: string
  hideTitle?: boolean
  /** Render the content without padding. */
  bare?: boolean
  children: ReactNode
}) {
  return (
    <BaseDialog.Root open={open} onOpenChange={onOpenChange}>
      <BaseDialog.Portal>
        <BaseDialog.Backdrop className={css.backdrop} />
        <BaseDialog.Popup className={css.dialog}>
          <div className={bare ? undefined : css.dialogBody}>
            <BaseDialog.Title className={hideTitle ? 'hidden-text' : undefined}>
              {title}
            </BaseDialog.Title>
            {children}
          </div>
        </BaseDialog.Popup>
      </BaseDialog.Portal>
    </BaseDialog.Root>
  )
}
