/**
 * The path below which a proxy serves the page, without a slash at its end; empty at the root.
 *
 * The address of the page's own script decides: the page itself may be any address below it.
 */
export const basePath = import.meta.env?.PROD
  ? new URL('..', import.meta.url).pathname.replace(/\/+$/, '')
  : ''

/** Return the path of the page's address below `basePath`, as the router knows it. */
export function currentPath(): string {
  const { pathname } = window.location
  return pathname.startsWith(`${basePath}/`) ? pathname.slice(basePath.length) : pathname
}
