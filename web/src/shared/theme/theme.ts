/** The theme: chosen, kept in this browser, set on the root element. */
export type Theme = 'dark' | 'light' | 'system'

const KEY = 'backline.theme'
const listeners = new Set<() => void>()
const light = globalThis.matchMedia?.('(prefers-color-scheme: light)')

export function chosenTheme(): Theme {
  try {
    const kept = localStorage.getItem(KEY)
    return kept === 'light' || kept === 'system' ? kept : 'dark'
  } catch {
    return 'dark'
  }
}

export function shownTheme(): 'dark' | 'light' {
  const theme = chosenTheme()
  if (theme === 'system') return light?.matches ? 'light' : 'dark'
  return theme
}

export function setTheme(theme: Theme): void {
  try {
    localStorage.setItem(KEY, theme)
  } catch {
    // Storage is off: the choice lasts as long as the page.
  }
  show()
}

function show(): void {
  document.documentElement.dataset.theme = shownTheme()
  for (const listener of listeners) listener()
}

light?.addEventListener('change', show)

export function onTheme(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}
