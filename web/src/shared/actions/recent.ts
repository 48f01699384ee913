/** The actions that a person ran last, for the palette. */
import { type ActionName, actionByName, registry } from './registry'

const KEY = 'backline.recent'
const MOST = 12

function load(): string[] {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]')
    return Array.isArray(found) ? found.filter((name) => actionByName.has(name)) : []
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
    this.#names = [name, ...this.names().filter((each) => each !== name)].slice(0, MOST)
    try {
      localStorage.setItem(KEY, JSON.stringify(this.#names))
    } catch {
      // Storage is off: the list lasts as long as the page.
    }
  }
}

export const recent = new Recent()
registry.observe((name) => recent.add(name))
