import './shared/theme/base.css'
import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { App } from './app/App'
import { keptKey } from './app/session'
import { CodetteBridge, OfflineError, ProblemError } from './shared/bridge/codetteBridge'
import { BridgeProvider } from './shared/bridge/context'
import { TooltipProvider } from './shared/ui'

const bridge = new CodetteBridge({ apiKey: keptKey(), role: 'studio' })
const queries = new QueryClient({
  defaultOptions: {
    queries: {
      networkMode: 'always', // this machine's server needs no network
      refetchOnWindowFocus: false,
      // Once more for what may pass; what the server refused, it would refuse again.
      retry: (count, error) =>
        count < 1 &&
        !(error instanceof OfflineError) &&
        !(error instanceof ProblemError && error.status < 500),
    },
    mutations: { networkMode: 'always' },
  },
})

const root = document.getElementById('root')
if (!root) throw new Error('index.html has no #root')
bridge.connect()
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <BridgeProvider bridge={bridge}>
        <TooltipProvider>
          <App />
        </TooltipProvider>
      </BridgeProvider>
    </QueryClientProvider>
  </StrictMode>,
)
