import { Component, type ReactNode } from 'react'
import { Redirect, Route, Switch, useLocation } from 'wouter'
import ActionsView from '@/features/actions/ActionsView'
import AskView from '@/features/ask/AskView'
import { useBackfillActions } from '@/features/coverage/actions'
import CoverageView from '@/features/coverage/CoverageView'
import MapView from '@/features/map/MapView'
import { ActionButton, EmptyState, ErrorState } from '@/shared/ui'
import { Notices } from '@/shared/ui/Notices'
import { useAppActions } from './actions'
import { KeyDialog } from './KeyDialog'
import { useKeyboard } from './keyboard'
import { Layout } from './Layout'
import { useLive } from './live'
import { Palette } from './Palette'
import { useViewContext } from './views'

/**
 * The views are not loaded lazily: a failed dynamic import breaks the view, and browsers cache the
 * failure until the page is reloaded.
 */
export function App() {
  useViewContext()
  useLive()
  useKeyboard()
  useAppActions()
  useBackfillActions()
  const [path] = useLocation()
  return (
    <>
      <Layout>
        <ErrorBoundary key={path}>
          <Switch>
            <Route path="/">
              <Redirect to="/ask" replace />
            </Route>
            <Route path="/ask" component={AskView} />
            <Route path="/map" component={MapView} />
            <Route path="/coverage" component={CoverageView} />
            <Route path="/actions" component={ActionsView} />
            <Route>
              <EmptyState
                title="Page not found"
                actions={
                  <>
                    <ActionButton action="view.ask" kind="primary" />
                    <ActionButton action="palette.open" />
                  </>
                }
              >
                No view has this address. Open Ask, Map, Coverage or Actions.
              </EmptyState>
            </Route>
          </Switch>
        </ErrorBoundary>
      </Layout>
      <Palette />
      <KeyDialog />
      <Notices />
    </>
  )
}

/** Limits a render error to the view. Opening another view resets it. */
class ErrorBoundary extends Component<{ children: ReactNode }, { error: unknown }> {
  override state = { error: null as unknown }

  static getDerivedStateFromError(error: unknown) {
    return { error }
  }

  override render() {
    if (!this.state.error) return this.props.children
    return (
      <ErrorState
        error={this.state.error}
        onRetry={() => this.setState({ error: null })}
        actions={<ActionButton action="session.reload" />}
      />
    )
  }
}
