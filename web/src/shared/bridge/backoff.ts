export interface Backoff {
  readonly firstMs: number
  readonly mostMs: number
}

/**
 * Return the delay before an attempt: exponential, with the upper half random, so that the
 * clients of a restarted server do not reconnect at the same moment.
 */
export function delayOf(
  attempt: number,
  { firstMs, mostMs }: Backoff,
  random = Math.random,
): number {
  const step = Math.min(mostMs, firstMs * 2 ** Math.min(attempt, 30))
  return Math.round(step / 2 + (step / 2) * random())
}
