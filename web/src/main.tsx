import '@/shared/theme/base.css'
import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { Router } from 'wouter'
import { App } from '@/app/App'
import { storedKey } from '@/app/session'
import { basePath } from '@/shared/base'
import { CodetteBridge, OfflineError, ProblemError } from '@/shared/bridge/codetteBridge'
import { BridgeProvider } from '@/shared/bridge/context'
import { TooltipProvider } from '@/shared/ui'

const bridge = new CodetteBridge({
  apiKey: storedKey(),
  role: 'studio',
  baseUrl: window.location.origin + basePath,
})
const queries = new QueryClient({
  defaultOptions: {
    queries: {
      networkMode: 'always', // a local server works without a network
      refetchOnWindowFocus: false,
      // Retry once, except while offline and for 4xx responses, which a retry would repeat.
      retry: (count, error) =>
        count < 1 &&
        !(error instanceof OfflineError) &&
        !(error instanceof ProblemError && error.status < 500),
    },
    mutations: { networkMode: 'always' },
  },
})

const root = document.getElementById('root')
if (!root) throw new Error('index.html has no element #root')
bridge.connect()
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <BridgeProvider bridge={bridge}>
        <TooltipProvider>
          <Router base={basePath}>
            <App />
          </Router>
        </TooltipProvider>
      </BridgeProvider>
    </QueryClientProvider>
  </StrictMode>,
)
