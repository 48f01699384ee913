import { useMemo, useSyncExternalStore } from 'react'

function subscribe(onChange: () => void): () => void {
  const observer = new MutationObserver(onChange)
  observer.observe(document.documentElement, { attributeFilter: ['data-theme'] })
  return () => observer.disconnect()
}

const currentTheme = () => document.documentElement.dataset.theme ?? ''

/** Return the current values of custom properties, for drawing on a canvas. */
export function useCssValues<K extends string>(names: readonly K[]): Record<K, string> {
  const theme = useSyncExternalStore(subscribe, currentTheme)
  const joined = names.join(' ')
  // biome-ignore lint/correctness/useExhaustiveDependencies: the values change with the theme
  return useMemo(() => {
    const style = getComputedStyle(document.documentElement)
    const values = joined.split(' ').map((name) => [name, style.getPropertyValue(name).trim()])
    return Object.fromEntries(values) as Record<K, string>
  }, [joined, theme])
}
