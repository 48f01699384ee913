import { useMemo, useSyncExternalStore } from 'react'

function listen(changed: () => void): () => void {
  const observer = new MutationObserver(changed)
  observer.observe(document.documentElement, { attributeFilter: ['data-theme'] })
  return () => observer.disconnect()
}

const theme = () => document.documentElement.dataset.theme ?? ''

/** Custom properties of the theme as what they are now, for what is drawn on a canvas. */
export function useCssValues<K extends string>(names: readonly K[]): Record<K, string> {
  const now = useSyncExternalStore(listen, theme)
  const joined = names.join(' ')
  // biome-ignore lint/correctness/useExhaustiveDependencies: the values change with the theme
  return useMemo(() => {
    const style = getComputedStyle(document.documentElement)
    const found = joined.split(' ').map((name) => [name, style.getPropertyValue(name).trim()])
    return Object.fromEntries(found) as Record<K, string>
  }, [joined, now])
}
