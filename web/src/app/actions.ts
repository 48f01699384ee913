/** The actions of the page: navigation, theme, collection, API key, undo. */
import { useQueryClient } from '@tanstack/react-query'
import { useEffect, useSyncExternalStore } from 'react'
import { useLocation } from 'wouter'
import { actionById, actionByName, NOTHING, registry } from '@/shared/actions/registry'
import { shortcuts } from '@/shared/actions/shortcuts'
import { useAction, useFacts } from '@/shared/actions/useAction'
import { currentPath } from '@/shared/base'
import { useBridge, useConnection } from '@/shared/bridge/context'
import { copyText } from '@/shared/clipboard'
import { activeTheme, selectedTheme, setTheme, type Theme } from '@/shared/theme/theme'
import { dismiss, notify } from '@/shared/ui/Notices'
import { addressOf, sharedQuery } from '@/shared/url'
import { openDialog, useOpenDialog } from './dialogs'
import { storedKey, storeKey } from './session'
import { VIEWS } from './views'

export function useAppActions(): void {
  useNavigation()
  useAppearance()
  useSession()
  useHistory()
  useErrors()
  useRemoteActions()
}

function useNavigation(): void {
  const [, navigate] = useLocation()
  const go = (path: string) => () => {
    if (path !== currentPath()) navigate(addressOf(path, sharedQuery(window.location.search)))
  }
  const [ask, map, coverage, actions] = VIEWS.map(({ path }) => go(path))
  useAction('view.ask', ask ?? go('/ask'))
  useAction('view.map', map ?? go('/map'))
  useAction('view.coverage', coverage ?? go('/coverage'))
  useAction('view.actions', actions ?? go('/actions'))
  const focusSearch = () => {
    navigate(addressOf('/ask', sharedQuery(window.location.search)))
    setTimeout(() => void registry.run('search.focus'), 50)
  }
  useAction('search.focus', focusSearch, { fallback: true })
  useAction('view.copyLink', async () => {
    await copyText(window.location.href)
    notify('Link copied', 'ok')
  })
  useAction(
    'collection.select',
    ({ collection }) => {
      const before = currentPath() + window.location.search
      const query = new URLSearchParams(window.location.search)
      if (query.get('collection') === collection) return NOTHING
      for (const name of ['category', 'key', 'run', 'after']) query.delete(name)
      query.set('collection', collection)
      navigate(addressOf(currentPath(), query.toString()))
      return before
    },
    { undo: (_, before) => typeof before === 'string' && navigate(before) },
  )
}

function useAppearance(): void {
  const set = (theme: Theme) => {
    const before = selectedTheme()
    if (before === theme) return NOTHING
    setTheme(theme)
    return before
  }
  const undo = (_: unknown, before: Theme | typeof NOTHING) => {
    if (typeof before === 'string') setTheme(before)
  }
  useAction('theme.set', ({ theme }) => set(theme), { undo })
  useAction('theme.toggle', () => set(activeTheme() === 'dark' ? 'light' : 'dark'), { undo })
  useAction('palette.open', () => openDialog('palette'))
  const changed = useSyncExternalStore(shortcuts.subscribe, () => shortcuts.changed)
  useFacts({ 'shortcuts.changed': changed })
  useAction(
    'shortcuts.rebind',
    ({ action, shortcut }) => shortcuts.rebind(action as never, shortcut),
    { undo: ({ action }, before) => void shortcuts.rebind(action as never, before) },
  )
  useAction('shortcuts.reset', () => shortcuts.replace({}), {
    undo: (_, before) => void shortcuts.replace(before),
  })
}

function useSession(): void {
  const bridge = useBridge()
  const queries = useQueryClient()
  const { state } = useConnection()
  useOpenDialog() // the key dialog may have changed the key
  useFacts({
    online: state === 'connected',
    offline: state === 'offline',
    'session.key': storedKey() !== null,
  })
  const setKey = (key: string | null) => {
    storeKey(key)
    bridge.setApiKey(key)
    void queries.invalidateQueries()
  }
  useAction('session.enterKey', () => openDialog('key'))
  useAction('session.setKey', ({ key }) => setKey(key))
  useAction('session.forgetKey', () => {
    setKey(null)
    notify('API key removed')
  })
  useAction('session.reconnect', () => bridge.connect())
  useAction('session.reload', () => window.location.reload())
  useAction('session.dismiss', () => dismiss())
}

function useHistory(): void {
  useAction('history.undo', async () => {
    const undone = await registry.undo()
    if (undone) notify(`Undone: ${undone.title}`, 'info', 'history.redo')
  })
  useAction('history.redo', async () => {
    const redone = await registry.redo()
    if (redone) notify(`Redone: ${redone.title}`, 'info', 'history.undo')
  })
}

/** Show the errors of actions and of the server as notices. */
function useErrors(): void {
  const bridge = useBridge()
  useEffect(() => {
    registry.onError = ({ title }, error) => {
      notify(`${title}: ${error instanceof Error ? error.message : String(error)}`, 'error')
    }
  }, [])
  useEffect(
    () =>
      bridge.on('error', ({ title, detail }) => {
        notify(`${title}: ${detail}`, 'error')
      }),
    [bridge],
  )
}

/** Run the actions that other clients send to this page. */
function useRemoteActions(): void {
  const bridge = useBridge()
  useEffect(
    () =>
      bridge.on('action', ({ actionId, name, parameters }) => {
        const definition = name ? actionByName.get(name) : actionById.get(Number(actionId))
        if (definition && REMOTE_CATEGORIES.has(definition.category)) {
          void registry.run(definition.name, parameters as never)
        }
      }),
    [bridge],
  )
}

/** Categories that other clients may run. None of their actions writes to the server. */
const REMOTE_CATEGORIES = new Set(['Navigation', 'Search', 'Map'])
