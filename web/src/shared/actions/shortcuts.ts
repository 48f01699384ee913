/**
 * Keyboard shortcuts: a chord such as `Mod+K` or a sequence such as `g a`. Mod is Command on a
 * Mac and Control elsewhere. Changed shortcuts are stored in the browser.
 */
import { useSyncExternalStore } from 'react'
import * as v from 'valibot'
import { ACTIONS, type ActionName } from './actions.gen'

const KEY = 'backline.shortcuts'
const changesSchema = v.record(v.string(), v.nullable(v.string()))
type Changes = Record<string, string | null>

export const isMac = /Mac|iPhone|iPad/.test(globalThis.navigator?.platform ?? '')

export interface KeyLike {
  key: string
  code?: string
  ctrlKey: boolean
  metaKey: boolean
  altKey: boolean
  shiftKey: boolean
}

/** Return the chord of a key press, or null for a modifier key. Caps Lock does not matter. */
export function chordOf(event: KeyLike, mac = isMac): string | null {
  if (['Control', 'Meta', 'Alt', 'Shift', 'Dead', 'Process', 'CapsLock'].includes(event.key))
    return null
  const single = event.key.length === 1
  const letter = single && event.key.toLowerCase() !== event.key.toUpperCase()
  const mod = mac ? event.metaKey : event.ctrlKey
  const modified = event.ctrlKey || event.metaKey || event.altKey
  let key = event.key === ' ' ? 'Space' : event.key
  // Punctuation such as ? or + needs Shift on some layouts only, so Shift is not part of its chord.
  const shift = event.shiftKey && (letter || !single)
  if (letter) key = modified || shift ? key.toUpperCase() : key.toLowerCase()
  const modifiers = [
    mod && 'Mod',
    mac && event.ctrlKey && 'Ctrl',
    event.altKey && 'Alt',
    shift && 'Shift',
  ]
  return [...modifiers.filter(Boolean), key].join('+')
}

/** Split a chord at its plus signs. The last key can be a plus sign too. */
export function partsOf(chord: string): string[] {
  if (chord === '+') return ['+']
  return chord.endsWith('++') ? [...chord.slice(0, -2).split('+'), '+'] : chord.split('+')
}

const KEY_LABELS: Record<string, string> = {
  ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', Escape: 'Esc',
} // biome-ignore format: a table

function keyLabel(key: string, mac: boolean): string {
  if (key === 'Mod') return mac ? '⌘' : 'Ctrl'
  if (mac && key === 'Shift') return '⇧'
  if (mac && key === 'Alt') return '⌥'
  return KEY_LABELS[key] ?? (key.length === 1 ? key.toUpperCase() : key)
}

export class Shortcuts {
  #changes: Changes
  readonly #listeners = new Set<() => void>()
  readonly #storage: Pick<Storage, 'getItem' | 'setItem'> | undefined

  constructor(storage?: Pick<Storage, 'getItem' | 'setItem'>) {
    this.#storage = storage
    this.#changes = this.#load()
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  readonly of = (name: ActionName): string | null => {
    const changed = this.#changes[name]
    return changed === undefined
      ? (ACTIONS.find((action) => action.name === name)?.shortcut ?? null)
      : changed
  }

  get changed(): boolean {
    return Object.keys(this.#changes).length > 0
  }

  isChanged(name: ActionName): boolean {
    return this.#changes[name] !== undefined
  }

  /** Return the action with a conflicting shortcut: equal, or one is a prefix of the other. */
  conflict(name: ActionName, shortcut: string): ActionName | null {
    const conflicting = ACTIONS.find((action) => {
      const other = action.name === name ? null : this.of(action.name)
      return other !== null && (startsWith(other, shortcut) || startsWith(shortcut, other))
    })
    return conflicting?.name ?? null
  }

  /**
   * Change or remove a shortcut and return the previous one. Throw if it conflicts with another.
   */
  rebind(name: ActionName, shortcut: string | null): string | null {
    const conflict = shortcut === null ? null : this.conflict(name, shortcut)
    if (conflict) {
      const title = ACTIONS.find((action) => action.name === conflict)?.title
      throw new Error(`${shortcut} is assigned to “${title}”. Change that shortcut first.`)
    }
    const before = this.of(name)
    const original = ACTIONS.find((action) => action.name === name)?.shortcut ?? null
    const { [name]: _, ...others } = this.#changes
    this.#setChanges(shortcut === original ? others : { ...others, [name]: shortcut })
    return before
  }

  /** Replace all changes and return the previous ones. */
  replace(changes: Changes): Changes {
    const before = this.#changes
    this.#setChanges(changes)
    return before
  }

  /** Return the action of the pressed keys, `prefix` if they start a sequence, or null. */
  match(pressed: readonly string[]): ActionName | 'prefix' | null {
    const sequence = pressed.join(' ')
    const exact = ACTIONS.find(({ name }) => this.of(name) === sequence)
    if (exact) return exact.name
    return ACTIONS.some(({ name }) => this.of(name)?.startsWith(`${sequence} `)) ? 'prefix' : null
  }

  /** Return the labels of the keys of a shortcut. */
  keyLabels(shortcut: string, mac = isMac): string[] {
    return shortcut.split(' ').flatMap((chord) => partsOf(chord).map((key) => keyLabel(key, mac)))
  }

  /** Return the value of `aria-keyshortcuts`, which does not support sequences. */
  forAria(shortcut: string | null): string | undefined {
    if (!shortcut || shortcut.includes(' ')) return undefined
    return shortcut.replace('Mod', isMac ? 'Meta' : 'Control')
  }

  #load(): Changes {
    try {
      const result = v.safeParse(changesSchema, JSON.parse(this.#storage?.getItem(KEY) ?? '{}'))
      return result.success ? result.output : {}
    } catch {
      return {}
    }
  }

  #setChanges(changes: Changes): void {
    this.#changes = changes
    try {
      this.#storage?.setItem(KEY, JSON.stringify(changes))
    } catch {
      // Storage is disabled or full: the change lasts until the page is closed.
    }
    for (const listener of this.#listeners) listener()
  }
}

/** Return whether the keys of `prefix` are the first keys of `sequence`. */
function startsWith(sequence: string, prefix: string): boolean {
  return sequence === prefix || sequence.startsWith(`${prefix} `)
}

function browserStorage(): Storage | undefined {
  try {
    return globalThis.localStorage
  } catch {
    return undefined
  }
}

export const shortcuts = new Shortcuts(browserStorage())

export function useShortcutOf(name: ActionName): string | null {
  return useSyncExternalStore(shortcuts.subscribe, () => shortcuts.of(name))
}
