/** The last used actions, for the palette. */
import { type ActionName, actionByName, registry } from './registry'

const KEY = 'backline.recent'
const MAX_RECENT = 12

function load(): string[] {
  try {
    const names: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]')
    return Array.isArray(names) ? names.filter((name) => actionByName.has(name)) : []
  } catch {
    return []
  }
}

class Recent {
  #names: string[] | null = null

  names(): readonly string[] {
    this.#names ??= load()
    return this.#names
  }

  add(name: ActionName): void {
    if (!actionByName.get(name)?.palette || name === 'palette.open') return
    this.#names = [name, ...this.names().filter((other) => other !== name)].slice(0, MAX_RECENT)
    try {
      localStorage.setItem(KEY, JSON.stringify(this.#names))
    } catch {
      // Storage is disabled: the list lasts until the page is closed.
    }
  }
}

export const recent = new Recent()
registry.observe((name) => recent.add(name))
