import { Component, lazy, type ReactNode, Suspense } from 'react'
import { Redirect, Route, Switch } from 'wouter'
import AskView from '../features/ask/AskView'
import { useBackfillActions } from '../features/coverage/actions'
import { EmptyState, ErrorState, Skeleton } from '../shared/ui'
import { Notices } from '../shared/ui/Notices'
import { useAppActions } from './actions'
import { KeyDialog } from './KeyDialog'
import { useKeyboard } from './keyboard'
import { Layout } from './Layout'
import { useLive } from './live'
import { Palette } from './Palette'
import { useViewContext } from './views'

const MapView = lazy(() => import('../features/map/MapView'))
const CoverageView = lazy(() => import('../features/coverage/CoverageView'))
const ActionsView = lazy(() => import('../features/actions/ActionsView'))

export function App() {
  useViewContext()
  useLive()
  useKeyboard()
  useAppActions()
  useBackfillActions()
  return (
    <>
      <Layout>
        <Caught>
          <Suspense fallback={<Loading />}>
            <Switch>
              <Route path="/">
                <Redirect to="/ask" replace />
              </Route>
              <Route path="/ask" component={AskView} />
              <Route path="/map" component={MapView} />
              <Route path="/coverage" component={CoverageView} />
              <Route path="/actions" component={ActionsView} />
              <Route>
                <EmptyState title="There is no such page">
                  Choose a view above, or press Ctrl K and type where you want to go.
                </EmptyState>
              </Route>
            </Switch>
          </Suspense>
        </Caught>
      </Layout>
      <Palette />
      <KeyDialog />
      <Notices />
    </>
  )
}

function Loading() {
  return (
    <div aria-busy="true" style={{ display: 'grid', gap: 12 }}>
      <span className="hidden-text">Loading</span>
      <Skeleton height={44} />
      <Skeleton height={280} />
    </div>
  )
}

/** A view that fails takes the page with it no further than itself. */
class Caught extends Component<{ children: ReactNode }, { error: unknown }> {
  override state = { error: null as unknown }

  static getDerivedStateFromError(error: unknown) {
    return { error }
  }

  override render() {
    if (!this.state.error) return this.props.children
    return <ErrorState error={this.state.error} onRetry={() => this.setState({ error: null })} />
  }
}
