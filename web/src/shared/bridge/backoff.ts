export interface Backoff {
  readonly firstMs: number
  readonly mostMs: number
}

/** Half of an exponential step for certain, the other half by chance, so that clients come back one by one. */
export function delayOf(
  attempt: number,
  { firstMs, mostMs }: Backoff,
  random = Math.random,
): number {
  const step = Math.min(mostMs, firstMs * 2 ** Math.min(attempt, 30))
  return Math.round(step / 2 + (step / 2) * random())
}
