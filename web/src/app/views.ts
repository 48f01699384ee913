import { useLayoutEffect } from 'react'
import { useLocation } from 'wouter'
import type { ActionName } from '@/shared/actions/registry'
import { registry } from '@/shared/actions/registry'

export interface View {
  path: string
  name: string
  title: string
  action: ActionName
}

export const VIEWS: readonly View[] = [
  { path: '/ask', name: 'ask', title: 'Ask', action: 'view.ask' },
  { path: '/map', name: 'map', title: 'Map', action: 'view.map' },
  { path: '/coverage', name: 'coverage', title: 'Coverage', action: 'view.coverage' },
  { path: '/actions', name: 'actions', title: 'Actions', action: 'view.actions' },
]

/** Set the open view as the context of the action registry. */
export function useViewContext(): void {
  const [path] = useLocation()
  const view = VIEWS.find((view) => view.path === path)
  useLayoutEffect(() => {
    registry.setContext(view?.name ?? 'all')
    document.title = view ? `${view.title} · Backline` : 'Backline'
  }, [view])
}
