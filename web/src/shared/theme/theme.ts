/** The theme: stored in the browser and set on the root element. */
export type Theme = 'dark' | 'light' | 'system'

const KEY = 'backline.theme'
const listeners = new Set<() => void>()
const light = globalThis.matchMedia?.('(prefers-color-scheme: light)')

export function selectedTheme(): Theme {
  try {
    const stored = localStorage.getItem(KEY)
    return stored === 'light' || stored === 'system' ? stored : 'dark'
  } catch {
    return 'dark'
  }
}

export function activeTheme(): 'dark' | 'light' {
  const theme = selectedTheme()
  if (theme === 'system') return light?.matches ? 'light' : 'dark'
  return theme
}

export function setTheme(theme: Theme): void {
  try {
    localStorage.setItem(KEY, theme)
  } catch {
    // Storage is disabled: the theme lasts until the page is closed.
  }
  applyTheme()
}

function applyTheme(): void {
  document.documentElement.dataset.theme = activeTheme()
  for (const listener of listeners) listener()
}

light?.addEventListener('change', applyTheme)

export function onTheme(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}
