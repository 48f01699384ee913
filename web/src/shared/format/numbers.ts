/** Numbers as the studio writes them: a real minus, thin groups, no digits that say nothing. */
const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 3 })
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })

export function number(value: number): string {
  return plain.format(value).replace('-', '−')
}

/** A score: always two digits after the point, so that scores stand under one another. */
export function score(value: number): string {
  return value.toFixed(2).replace('-', '−')
}

export function count(value: number): string {
  return whole.format(value)
}

export function percent(ratio: number): string {
  // Never 100 % while something is left.
  const shown = ratio < 1 ? Math.min(99.9, 100 * ratio) : 100
  return `${plain.format(Math.floor(shown * 10) / 10)} %`
}

/** 12 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds: number): string {
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`
  if (seconds < 10) return `${plain.format(Math.round(10 * seconds) / 10)} s`
  if (seconds < 60) return `${Math.round(seconds)} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
