import { readFileSync } from 'node:fs'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { groups } from '@/app/paletteSearch'
import { ACTIONS, ActionRegistry, type Binding, NOTHING } from '@/shared/actions/registry'
import { chordOf, Shortcuts } from '@/shared/actions/shortcuts'

let registry: ActionRegistry
beforeEach(() => {
  registry = new ActionRegistry()
})

const bound = (handler: (parameters: never) => unknown, undo?: Binding['undo']): Binding => ({
  handler: handler as Binding['handler'],
  enabled: true,
  ...(undo && { undo }),
})

describe('the table', () => {
  test('is what the server serves', () => {
    const file = new URL('../../src/backline/data/actions.json', import.meta.url)
    const { actions } = JSON.parse(readFileSync(file, 'utf8'))
    expect(ACTIONS.map(({ id, name, shortcut }) => ({ id, name, shortcut }))).toEqual(
      actions.map(({ id, name, shortcut }: (typeof ACTIONS)[number]) => ({ id, name, shortcut })),
    )
  })

  test('has numbers from 44100 to 44999, each once', () => {
    const ids = ACTIONS.map(({ id }) => id)
    expect(Math.min(...ids)).toBeGreaterThanOrEqual(44100)
    expect(Math.max(...ids)).toBeLessThanOrEqual(44999)
    expect(new Set(ids).size).toBe(ids.length)
  })

  test('has no shortcut that stands in another’s way', () => {
    const shortcuts = new Shortcuts()
    const taken = ACTIONS.filter(
      ({ name, shortcut }) => shortcut && shortcuts.conflict(name, shortcut),
    )
    expect(taken).toEqual([])
  })
})

describe('running', () => {
  test('needs a handler, and stops with it', async () => {
    const handler = vi.fn()
    expect(registry.refusal('theme.toggle')).toBe('unbound')
    const unbind = registry.bind('theme.toggle', bound(handler))
    expect(await registry.run('theme.toggle')).toBe(true)
    unbind()
    expect(await registry.run('theme.toggle')).toBe(false)
    expect(handler).toHaveBeenCalledTimes(1)
  })

  test('needs the view that the action belongs to', async () => {
    registry.bind(
      'map.zoomIn',
      bound(() => {}),
    )
    registry.setContext('ask')
    expect(registry.refusal('map.zoomIn')).toBe('elsewhere')
    registry.setContext('map')
    expect(registry.can('map.zoomIn')).toBe(true)
  })

  test('needs every fact of the table, which anybody may state', () => {
    const [one, other] = [{}, {}]
    registry.bind(
      'backfill.start',
      bound(() => {}),
    )
    registry.setFact('online', one, true)
    expect(registry.refusal('backfill.start')).toBe('not now')
    registry.setFact('backfill.idle', other, true)
    expect(registry.can('backfill.start')).toBe(true)
    registry.setFact('online', one, false)
    expect(registry.can('backfill.start')).toBe(false)
  })

  test('of a named result does not wait for a selected one', async () => {
    registry.setContext('ask')
    const handler = vi.fn()
    registry.bind('suggestion.copy', bound(handler))
    expect(await registry.run('suggestion.copy')).toBe(false)
    expect(await registry.run('suggestion.copy', { key: 'k' })).toBe(true)
    expect(handler).toHaveBeenCalledWith({ key: 'k' })
  })

  test('takes the newest binding, and a fallback only where there is none', async () => {
    const ran: string[] = []
    registry.bind(
      'search.focus',
      bound(() => ran.push('view')),
    )
    registry.bind('search.focus', { ...bound(() => ran.push('page')), fallback: true })
    await registry.run('search.focus')
    expect(ran).toEqual(['view'])
  })

  test('shows what a handler throws, and puts nothing on the stack', async () => {
    const said = vi.fn()
    registry.onError = said
    registry.bind(
      'theme.toggle',
      bound(
        () => Promise.reject(new Error('no')),
        () => {},
      ),
    )
    expect(await registry.run('theme.toggle')).toBe(false)
    expect(said.mock.calls[0]?.[0]).toMatchObject({ id: 44120 })
    expect(registry.done).toEqual([])
  })
})

describe('undo and redo', () => {
  function counter() {
    let value = 0
    registry.bind(
      'theme.toggle',
      bound(
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

  test('go back step by step and forth again', async () => {
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
    expect([registry.done.length, registry.undone.length]).toEqual([1, 1])
  })

  test('a new step ends what could be done again', async () => {
    counter()
    await registry.run('theme.toggle')
    await registry.undo()
    await registry.run('theme.toggle')
    expect(registry.undone).toEqual([])
  })

  test('a step that did nothing is none', async () => {
    registry.bind(
      'theme.toggle',
      bound(
        () => NOTHING,
        () => {},
      ),
    )
    expect(await registry.run('theme.toggle')).toBe(true)
    expect(registry.is('history.undo')).toBe(false)
  })

  test('what cannot be undone is not on the stack', async () => {
    registry.bind(
      'view.ask',
      bound(
        () => {},
        () => {},
      ),
    )
    await registry.run('view.ask')
    expect(registry.done).toEqual([])
  })

  test('an undo that fails stays to be tried again', async () => {
    registry.onError = () => {}
    let works = false
    registry.bind(
      'theme.toggle',
      bound(
        () => 1,
        () => {
          if (!works) throw new Error('offline')
        },
      ),
    )
    await registry.run('theme.toggle')
    expect(await registry.undo()).toBeNull()
    expect(registry.done).toHaveLength(1)
    works = true
    expect(await registry.undo()).not.toBeNull()
    expect(registry.undone).toHaveLength(1)
  })

  test('an undo waits for a step that is under way', async () => {
    const order: string[] = []
    registry.bind(
      'theme.toggle',
      bound(
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
    expect(registry.undone).toHaveLength(1)
  })

  test('a redo waits for an undo that is under way', async () => {
    const order: string[] = []
    let release = () => {}
    registry.bind(
      'theme.toggle',
      bound(
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
    await vi.waitFor(() => expect(registry.done).toHaveLength(0))
    release()
    await Promise.all([undoing, redoing])
    expect(order).toEqual(['done', 'undone', 'done'])
    expect([registry.done.length, registry.undone.length]).toEqual([1, 0])
    expect(registry.is('history.redo')).toBe(false)
  })

  test('work after the view is gone', async () => {
    const undo = vi.fn()
    const unbind = registry.bind(
      'theme.toggle',
      bound(() => 7, undo),
    )
    await registry.run('theme.toggle')
    unbind()
    await registry.undo()
    expect(undo).toHaveBeenCalledWith({}, 7)
  })
})

function memory(): Pick<Storage, 'getItem' | 'setItem'> {
  const kept = new Map<string, string>()
  return {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, value),
  }
}

const press = (key: string, held: Partial<Record<'ctrlKey' | 'metaKey' | 'altKey' | 'shiftKey', true>> = {}) => ({
  key, ctrlKey: false, metaKey: false, altKey: false, shiftKey: false, ...held,
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
  ])('%o is the chord %s %s', (event, mac, chord) => {
    expect(chordOf(event, mac)).toBe(chord)
  })

  test('sequences are matched key by key', () => {
    const shortcuts = new Shortcuts()
    expect(shortcuts.match(['g'])).toBe('begun')
    expect(shortcuts.match(['g', 'm'])).toBe('view.map')
    expect(shortcuts.match(['g', 'x'])).toBeNull()
    expect(shortcuts.match(['Mod+K'])).toBe('palette.open')
  })

  test('a taken one is refused, also where it would begin another', () => {
    const shortcuts = new Shortcuts()
    expect(() => shortcuts.rebind('view.map', '/')).toThrow(/belongs to “Search”/)
    expect(() => shortcuts.rebind('backfill.start', 'g')).toThrow(/belongs to/)
    expect(() => shortcuts.rebind('backfill.start', 'a b')).toThrow(/Apply suggestion/)
    expect(shortcuts.of('view.map')).toBe('g m')
  })

  test('another is kept, and frees the old one; the default leaves nothing behind', () => {
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

  test('what is kept but broken is as nothing', () => {
    const broken = { getItem: () => '{"view.map": 7}', setItem: () => {} }
    expect(new Shortcuts(broken).of('view.map')).toBe('g m')
  })

  test('are spoken as the keyboard has them', () => {
    const shortcuts = new Shortcuts()
    expect(shortcuts.spoken('Mod+Shift+Z', false)).toEqual(['Ctrl', 'Shift', 'Z'])
    expect(shortcuts.spoken('Mod+K', true)).toEqual(['⌘', 'K'])
    expect(shortcuts.spoken('g m', false)).toEqual(['G', 'M'])
    expect(shortcuts.spoken('Mod++', false)).toEqual(['Ctrl', '+'])
  })
})

describe('the palette', () => {
  const all = () => null
  const titles = (query: string, recent: string[] = []) =>
    groups(query, recent, all).map(
      ({ title, items }) => [title, items.map(({ action }) => action.name)] as const,
    )

  test('finds by a few letters, the best first, and shows where', () => {
    const [group] = groups('gocov', [], all)
    expect(group?.items[0]?.action.name).toBe('view.coverage')
    expect(
      group?.items[0]?.pieces
        .filter(({ hit }) => hit)
        .map(({ text }) => text)
        .join(''),
    ).toBe('GoCov')
  })

  test('starts with what was used last', () => {
    expect(titles('', ['theme.toggle', 'view.map', 'no.such'])[0]).toEqual([
      'Recently used',
      ['theme.toggle', 'view.map'],
    ])
  })

  test('lists what cannot be run now last, and without a query not at all', () => {
    const refusal = (name: string) => (name === 'history.undo' ? ('not now' as const) : null)
    const found = groups('undo', [], refusal)[0]?.items ?? []
    expect(found.at(-1)?.action.name).toBe('history.undo')
    expect(
      groups('', [], refusal).flatMap(({ items }) => items.map(({ action }) => action.name)),
    ).not.toContain('history.undo')
  })

  test('says when nothing is called that', () => {
    expect(groups('qqqxyz', [], all)).toEqual([])
  })
})
