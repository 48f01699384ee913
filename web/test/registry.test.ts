import { readFileSync } from 'node:fs'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { groups } from '@/app/paletteSearch'
import { ACTIONS, ActionRegistry, type Binding, NOTHING } from '@/shared/actions/registry'
import { chordOf, Shortcuts } from '@/shared/actions/shortcuts'

let registry: ActionRegistry
beforeEach(() => {
  registry = new ActionRegistry()
})

const bindingOf = (handler: (parameters: never) => unknown, undo?: Binding['undo']): Binding => ({
  handler: handler as Binding['handler'],
  enabled: true,
  ...(undo && { undo }),
})

describe('action table', () => {
  test('equals the table of the server', () => {
    const file = new URL('../../src/backline/data/actions.json', import.meta.url)
    const { actions } = JSON.parse(readFileSync(file, 'utf8'))
    expect(ACTIONS.map(({ id, name, shortcut }) => ({ id, name, shortcut }))).toEqual(
      actions.map(({ id, name, shortcut }: (typeof ACTIONS)[number]) => ({ id, name, shortcut })),
    )
  })

  test('has unique numbers from 44100 to 44999', () => {
    const ids = ACTIONS.map(({ id }) => id)
    expect(Math.min(...ids)).toBeGreaterThanOrEqual(44100)
    expect(Math.max(...ids)).toBeLessThanOrEqual(44999)
    expect(new Set(ids).size).toBe(ids.length)
  })

  test('has no conflicting shortcuts', () => {
    const shortcuts = new Shortcuts()
    const conflicting = ACTIONS.filter(
      ({ name, shortcut }) => shortcut && shortcuts.conflict(name, shortcut),
    )
    expect(conflicting).toEqual([])
  })
})

describe('run', () => {
  test('needs a bound handler', async () => {
    const handler = vi.fn()
    expect(registry.refusal('theme.toggle')).toBe('unbound')
    const unbind = registry.bind('theme.toggle', bindingOf(handler))
    expect(await registry.run('theme.toggle')).toBe(true)
    unbind()
    expect(await registry.run('theme.toggle')).toBe(false)
    expect(handler).toHaveBeenCalledTimes(1)
  })

  test('needs a view of the action to be open', async () => {
    registry.bind(
      'map.zoomIn',
      bindingOf(() => {}),
    )
    registry.setContext('ask')
    expect(registry.refusal('map.zoomIn')).toBe('other view')
    registry.setContext('map')
    expect(registry.can('map.zoomIn')).toBe(true)
  })

  test('needs every fact of the action, set by any owner', () => {
    const [one, other] = [{}, {}]
    registry.bind(
      'backfill.start',
      bindingOf(() => {}),
    )
    registry.setFact('online', one, true)
    expect(registry.refusal('backfill.start')).toBe('disabled')
    registry.setFact('backfill.idle', other, true)
    expect(registry.can('backfill.start')).toBe(true)
    registry.setFact('online', one, false)
    expect(registry.can('backfill.start')).toBe(false)
  })

  test('with a result in its parameters needs no selected result', async () => {
    registry.setContext('ask')
    const handler = vi.fn()
    registry.bind('suggestion.copy', bindingOf(handler))
    expect(await registry.run('suggestion.copy')).toBe(false)
    expect(await registry.run('suggestion.copy', { key: 'k' })).toBe(true)
    expect(handler).toHaveBeenCalledWith({ key: 'k' })
  })

  test('uses the last binding, and a fallback only without others', async () => {
    const calls: string[] = []
    registry.bind(
      'search.focus',
      bindingOf(() => calls.push('view')),
    )
    registry.bind('search.focus', { ...bindingOf(() => calls.push('page')), fallback: true })
    await registry.run('search.focus')
    expect(calls).toEqual(['view'])
  })

  test('reports an error of the handler and records nothing', async () => {
    const onError = vi.fn()
    registry.onError = onError
    registry.bind(
      'theme.toggle',
      bindingOf(
        () => Promise.reject(new Error('no')),
        () => {},
      ),
    )
    expect(await registry.run('theme.toggle')).toBe(false)
    expect(onError.mock.calls[0]?.[0]).toMatchObject({ id: 44120 })
    expect(registry.undoStack).toEqual([])
  })
})

describe('undo and redo', () => {
  function counter() {
    let value = 0
    registry.bind(
      'theme.toggle',
      bindingOf(
        () => {
          value += 1
          return value - 1
        },
        (_, before) => {
          value = before as number
        },
      ),
    )
    return () => value
  }

  test('move one step at a time', async () => {
    const value = counter()
    await registry.run('theme.toggle')
    await registry.run('theme.toggle')
    expect(value()).toBe(2)
    expect(registry.is('history.redo')).toBe(false)
    expect((await registry.undo())?.name).toBe('theme.toggle')
    await registry.undo()
    expect(value()).toBe(0)
    expect(await registry.undo()).toBeNull()
    await registry.redo()
    expect(value()).toBe(1)
    expect([registry.undoStack.length, registry.redoStack.length]).toEqual([1, 1])
  })

  test('a new run clears the redo stack', async () => {
    counter()
    await registry.run('theme.toggle')
    await registry.undo()
    await registry.run('theme.toggle')
    expect(registry.redoStack).toEqual([])
  })

  test('a run that returns NOTHING is not recorded', async () => {
    registry.bind(
      'theme.toggle',
      bindingOf(
        () => NOTHING,
        () => {},
      ),
    )
    expect(await registry.run('theme.toggle')).toBe(true)
    expect(registry.is('history.undo')).toBe(false)
  })

  test('an action that is not undoable is not recorded', async () => {
    registry.bind(
      'view.ask',
      bindingOf(
        () => {},
        () => {},
      ),
    )
    await registry.run('view.ask')
    expect(registry.undoStack).toEqual([])
  })

  test('a failed undo can be repeated', async () => {
    registry.onError = () => {}
    let online = false
    registry.bind(
      'theme.toggle',
      bindingOf(
        () => 1,
        () => {
          if (!online) throw new Error('offline')
        },
      ),
    )
    await registry.run('theme.toggle')
    expect(await registry.undo()).toBeNull()
    expect(registry.undoStack).toHaveLength(1)
    online = true
    expect(await registry.undo()).not.toBeNull()
    expect(registry.redoStack).toHaveLength(1)
  })

  test('an undo waits for an unfinished run', async () => {
    const order: string[] = []
    registry.bind(
      'theme.toggle',
      bindingOf(
        async () => {
          await new Promise((resolve) => setTimeout(resolve, 20))
          order.push('done')
        },
        () => order.push('undone'),
      ),
    )
    const running = registry.run('theme.toggle')
    expect(registry.is('history.undo')).toBe(true)
    await registry.undo()
    await running
    expect(order).toEqual(['done', 'undone'])
    expect(registry.redoStack).toHaveLength(1)
  })

  test('a redo waits for an unfinished undo', async () => {
    const order: string[] = []
    let release = () => {}
    registry.bind(
      'theme.toggle',
      bindingOf(
        () => order.push('done'),
        async () => {
          await new Promise<void>((resolve) => {
            release = resolve
          })
          order.push('undone')
        },
      ),
    )
    await registry.run('theme.toggle')
    const undoing = registry.undo()
    expect(registry.is('history.redo')).toBe(true)
    const redoing = registry.redo()
    await vi.waitFor(() => expect(registry.undoStack).toHaveLength(0))
    release()
    await Promise.all([undoing, redoing])
    expect(order).toEqual(['done', 'undone', 'done'])
    expect([registry.undoStack.length, registry.redoStack.length]).toEqual([1, 0])
    expect(registry.is('history.redo')).toBe(false)
  })

  test('work after the handler is unbound', async () => {
    const undo = vi.fn()
    const unbind = registry.bind(
      'theme.toggle',
      bindingOf(() => 7, undo),
    )
    await registry.run('theme.toggle')
    unbind()
    await registry.undo()
    expect(undo).toHaveBeenCalledWith({}, 7)
  })
})

function memory(): Pick<Storage, 'getItem' | 'setItem'> {
  const items = new Map<string, string>()
  return {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => void items.set(key, value),
  }
}

type Modifier = 'ctrlKey' | 'metaKey' | 'altKey' | 'shiftKey'
const press = (key: string, modifiers: Partial<Record<Modifier, true>> = {}) => ({
  key, ctrlKey: false, metaKey: false, altKey: false, shiftKey: false, ...modifiers,
}) // biome-ignore format: a record

describe('shortcuts', () => {
  test.each([
    [press('k', { ctrlKey: true }), false, 'Mod+K'],
    [press('k', { metaKey: true }), true, 'Mod+K'],
    [press('k', { ctrlKey: true }), true, 'Ctrl+K'],
    [press('Z', { ctrlKey: true, shiftKey: true }), false, 'Mod+Shift+Z'],
    [press('T', { shiftKey: true }), false, 'Shift+T'],
    [press('G'), false, 'g'], // with Caps Lock
    [press('?', { shiftKey: true }), false, '?'],
    [press('+', { shiftKey: true }), false, '+'],
    [press('ArrowLeft', { shiftKey: true }), false, 'Shift+ArrowLeft'],
    [press('Shift', { shiftKey: true }), false, null],
  ])('%o with mac=%s is %s', (event, mac, chord) => {
    expect(chordOf(event, mac)).toBe(chord)
  })

  test('match sequences key by key', () => {
    const shortcuts = new Shortcuts()
    expect(shortcuts.match(['g'])).toBe('prefix')
    expect(shortcuts.match(['g', 'm'])).toBe('view.map')
    expect(shortcuts.match(['g', 'x'])).toBeNull()
    expect(shortcuts.match(['Mod+K'])).toBe('palette.open')
  })

  test('reject a conflict, including a prefix of another shortcut', () => {
    const shortcuts = new Shortcuts()
    expect(() => shortcuts.rebind('view.map', '/')).toThrow(/assigned to “Search”/)
    expect(() => shortcuts.rebind('backfill.start', 'g')).toThrow(/assigned to/)
    expect(() => shortcuts.rebind('backfill.start', 'a b')).toThrow(/Apply suggestion/)
    expect(shortcuts.of('view.map')).toBe('g m')
  })

  test('are stored when changed and removed from storage when reset to the default', () => {
    const storage = memory()
    const shortcuts = new Shortcuts(storage)
    expect(shortcuts.rebind('view.map', 'Mod+M')).toBe('g m')
    expect(shortcuts.match(['Mod+M'])).toBe('view.map')
    expect(shortcuts.match(['g', 'm'])).toBeNull()
    const reloaded = new Shortcuts(storage)
    expect(reloaded.of('view.map')).toBe('Mod+M')
    reloaded.rebind('view.map', 'g m')
    expect(reloaded.changed).toBe(false)
    reloaded.rebind('view.map', null)
    expect(new Shortcuts(storage).of('view.map')).toBeNull()
  })

  test('ignore invalid stored data', () => {
    const broken = { getItem: () => '{"view.map": 7}', setItem: () => {} }
    expect(new Shortcuts(broken).of('view.map')).toBe('g m')
  })

  test('have the labels of the platform’s keyboard', () => {
    const shortcuts = new Shortcuts()
    expect(shortcuts.keyLabels('Mod+Shift+Z', false)).toEqual(['Ctrl', 'Shift', 'Z'])
    expect(shortcuts.keyLabels('Mod+K', true)).toEqual(['⌘', 'K'])
    expect(shortcuts.keyLabels('g m', false)).toEqual(['G', 'M'])
    expect(shortcuts.keyLabels('Mod++', false)).toEqual(['Ctrl', '+'])
  })
})

describe('palette', () => {
  const all = () => null
  const titles = (query: string, recent: string[] = []) =>
    groups(query, recent, all).map(
      ({ title, items }) => [title, items.map(({ action }) => action.name)] as const,
    )

  test('matches letters in order and marks them', () => {
    const [group] = groups('gocov', [], all)
    expect(group?.items[0]?.action.name).toBe('view.coverage')
    expect(
      group?.items[0]?.pieces
        .filter(({ matched }) => matched)
        .map(({ text }) => text)
        .join(''),
    ).toBe('GoCov')
  })

  test('lists the recent actions first', () => {
    expect(titles('', ['theme.toggle', 'view.map', 'no.such'])[0]).toEqual([
      'Recently used',
      ['theme.toggle', 'view.map'],
    ])
  })

  test('lists disabled actions last, and omits them without a query', () => {
    const refusal = (name: string) => (name === 'history.undo' ? ('disabled' as const) : null)
    const items = groups('undo', [], refusal)[0]?.items ?? []
    expect(items.at(-1)?.action.name).toBe('history.undo')
    expect(
      groups('', [], refusal).flatMap(({ items }) => items.map(({ action }) => action.name)),
    ).not.toContain('history.undo')
  })

  test('is empty without a match', () => {
    expect(groups('qqqxyz', [], all)).toEqual([])
  })
})
