/** The API key, stored for the current tab. */
const KEY = 'backline.apiKey'

export function storedKey(): string | null {
  try {
    return sessionStorage.getItem(KEY)
  } catch {
    return null
  }
}

export function storeKey(key: string | null): void {
  try {
    if (key) sessionStorage.setItem(KEY, key)
    else sessionStorage.removeItem(KEY)
  } catch {
    // Storage is disabled: the key lasts until the page is closed.
  }
}
