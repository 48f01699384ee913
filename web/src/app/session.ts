/** The API key of this tab. */
const KEY = 'backline.apiKey'

export function keptKey(): string | null {
  try {
    return sessionStorage.getItem(KEY)
  } catch {
    return null
  }
}

export function keepKey(key: string | null): void {
  try {
    if (key) sessionStorage.setItem(KEY, key)
    else sessionStorage.removeItem(KEY)
  } catch {
    // Storage is off: the key lasts as long as the page.
  }
}
