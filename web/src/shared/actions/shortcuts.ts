/**
 * Shortcuts: a chord such as `Mod+K`, or keys one after the other such as `g a`. Mod is Command on a
 * Mac and Control elsewhere. Others than the defaults are kept in this browser.
 */
import { useSyncExternalStore } from 'react'
import * as v from 'valibot'
import { ACTIONS, type ActionName } from './actions.gen'

const KEY = 'backline.shortcuts'
const kept = v.record(v.string(), v.nullable(v.string()))
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

/** The chord of a key press; null for a modifier by itself. Letters count without their case. */
export function chordOf(event: KeyLike, mac = isMac): string | null {
  if (['Control', 'Meta', 'Alt', 'Shift', 'Dead', 'Process', 'CapsLock'].includes(event.key))
    return null
  const single = event.key.length === 1
  const letter = single && event.key.toLowerCase() !== event.key.toUpperCase()
  const mod = mac ? event.metaKey : event.ctrlKey
  const modified = event.ctrlKey || event.metaKey || event.altKey
  let key = event.key === ' ' ? 'Space' : event.key
  // A sign such as ? or + is what it is, however it is typed.
  const shift = event.shiftKey && (letter || !single)
  if (letter) key = modified || shift ? key.toUpperCase() : key.toLowerCase()
  const held = [
    mod && 'Mod',
    mac && event.ctrlKey && 'Ctrl',
    event.altKey && 'Alt',
    shift && 'Shift',
  ]
  return [...held.filter(Boolean), key].join('+')
}

/** The parts of a chord; a plus sign may itself be the key. */
export function partsOf(chord: string): string[] {
  if (chord === '+') return ['+']
  return chord.endsWith('++') ? [...chord.slice(0, -2).split('+'), '+'] : chord.split('+')
}

const SIGNS: Record<string, string> = {
  ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', Escape: 'Esc',
} // biome-ignore format: a table

function spokenKey(key: string, mac: boolean): string {
  if (key === 'Mod') return mac ? '⌘' : 'Ctrl'
  if (mac && key === 'Shift') return '⇧'
  if (mac && key === 'Alt') return '⌥'
  return SIGNS[key] ?? (key.length === 1 ? key.toUpperCase() : key)
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
      ? (ACTIONS.find((each) => each.name === name)?.shortcut ?? null)
      : changed
  }

  get changed(): boolean {
    return Object.keys(this.#changes).length > 0
  }

  isChanged(name: ActionName): boolean {
    return this.#changes[name] !== undefined
  }

  /** The action that stands in the way: it has the shortcut, or one begins with the other. */
  conflict(name: ActionName, shortcut: string): ActionName | null {
    const taken = ACTIONS.find((each) => {
      const other = each.name === name ? null : this.of(each.name)
      return other !== null && (begins(other, shortcut) || begins(shortcut, other))
    })
    return taken?.name ?? null
  }

  /** Give an action a shortcut, or none. Returns what it had. Throws where the shortcut is taken. */
  rebind(name: ActionName, shortcut: string | null): string | null {
    const taken = shortcut === null ? null : this.conflict(name, shortcut)
    if (taken) {
      const title = ACTIONS.find((each) => each.name === taken)?.title
      throw new Error(`${shortcut} belongs to “${title}”. Give that another shortcut first.`)
    }
    const before = this.of(name)
    const original = ACTIONS.find((each) => each.name === name)?.shortcut ?? null
    const { [name]: _, ...others } = this.#changes
    this.#keep(shortcut === original ? others : { ...others, [name]: shortcut })
    return before
  }

  /** Replace all changes; returns those before. */
  replace(changes: Changes): Changes {
    const before = this.#changes
    this.#keep(changes)
    return before
  }

  /** What the keys pressed so far mean: an action, the beginning of one, or nothing. */
  match(pressed: readonly string[]): ActionName | 'begun' | null {
    const sequence = pressed.join(' ')
    const exact = ACTIONS.find(({ name }) => this.of(name) === sequence)
    if (exact) return exact.name
    return ACTIONS.some(({ name }) => this.of(name)?.startsWith(`${sequence} `)) ? 'begun' : null
  }

  /** The keys as they are written on a keyboard. */
  spoken(shortcut: string, mac = isMac): string[] {
    return shortcut.split(' ').flatMap((chord) => partsOf(chord).map((key) => spokenKey(key, mac)))
  }

  /** As `aria-keyshortcuts` wants it; it knows no sequences. */
  forAria(shortcut: string | null): string | undefined {
    if (!shortcut || shortcut.includes(' ')) return undefined
    return shortcut.replace('Mod', isMac ? 'Meta' : 'Control')
  }

  #load(): Changes {
    try {
      const found = v.safeParse(kept, JSON.parse(this.#storage?.getItem(KEY) ?? '{}'))
      return found.success ? found.output : {}
    } catch {
      return {}
    }
  }

  #keep(changes: Changes): void {
    this.#changes = changes
    try {
      this.#storage?.setItem(KEY, JSON.stringify(changes))
    } catch {
      // Storage is off or full: the change lasts as long as the page.
    }
    for (const listener of this.#listeners) listener()
  }
}

/** Whether a sequence begins with another. */
function begins(sequence: string, start: string): boolean {
  return sequence === start || sequence.startsWith(`${start} `)
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
