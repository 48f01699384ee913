import { Component, type ReactNode } from 'react'
import { Redirect, Route, Switch, useLocation } from 'wouter'
import ActionsView from '../features/actions/ActionsView'
import AskView from '../features/ask/AskView'
import { useBackfillActions } from '../features/coverage/actions'
import CoverageView from '../features/coverage/CoverageView'
import MapView from '../features/map/MapView'
import { ActionButton, EmptyState, ErrorState } from '../shared/ui'
import { Notices } from '../shared/ui/Notices'
import { useAppActions } from './actions'
import { KeyDialog } from './KeyDialog'
import { useKeyboard } from './keyboard'
import { Layout } from './Layout'
import { useLive } from './live'
import { Palette } from './Palette'
import { useViewContext } from './views'

/**
 * All views are in one file with the page: a view whose code came later could fail to come, and browsers
 * remember an import that failed until the page is loaded anew.
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
        <Caught key={path}>
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
                title="There is no such page"
                actions={
                  <>
                    <ActionButton action="view.ask" kind="primary" />
                    <ActionButton action="palette.open" />
                  </>
                }
              >
                The address leads nowhere. The views are Ask, Map, Coverage and Actions.
              </EmptyState>
            </Route>
          </Switch>
        </Caught>
      </Layout>
      <Palette />
      <KeyDialog />
      <Notices />
    </>
  )
}

/** A view that fails takes the page with it no further than itself; another view begins anew. */
class Caught extends Component<{ children: ReactNode }, { error: unknown }> {
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
