import { Component, type ReactNode } from 'react'
import { Redirect, Route, Switch, useLocation } from 'wouter'
import AskView from '../features/ask/AskView'
import { useBackfillActions } from '../features/coverage/actions'
import { ActionButton, EmptyState, ErrorState } from '../shared/ui'
import { Notices } from '../shared/ui/Notices'
import { useAppActions } from './actions'
import { KeyDialog } from './KeyDialog'
import { useKeyboard } from './keyboard'
import { Layout } from './Layout'
import { LazyView, Part, useEarly } from './LazyView'
import { useLive } from './live'
import { Palette } from './Palette'
import { useViewContext } from './views'

const MAP = new Part('Map', () => import('../features/map/MapView'))
const COVERAGE = new Part('Coverage', () => import('../features/coverage/CoverageView'))
const ACTIONS = new Part('Actions', () => import('../features/actions/ActionsView'))
const PARTS = [MAP, COVERAGE, ACTIONS]

export function App() {
  useViewContext()
  useLive()
  useKeyboard()
  useAppActions()
  useBackfillActions()
  useEarly(PARTS)
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
            <Route path="/map">
              <LazyView part={MAP} />
            </Route>
            <Route path="/coverage">
              <LazyView part={COVERAGE} />
            </Route>
            <Route path="/actions">
              <LazyView part={ACTIONS} />
            </Route>
            <Route>
              <EmptyState title="There is no such page">
                Choose a view above, or press Ctrl K and type where you want to go.
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
