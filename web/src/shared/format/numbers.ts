/** Formats numbers with a typographic minus, grouped digits and at most three decimals. */
const decimal = new Intl.NumberFormat('en', { maximumFractionDigits: 3 })
const integer = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })

const HOUR = 3600
const DAY = 24 * HOUR

export function number(value: number): string {
  return decimal.format(value).replace('-', '−')
}

/** Format a score with two decimals, so that scores align in a column. */
export function score(value: number): string {
  return value.toFixed(2).replace('-', '−')
}

export function count(value: number): string {
  return integer.format(value)
}

/** Format a ratio as a percentage, rounded down: 100 % means complete. */
export function percent(ratio: number): string {
  const value = ratio < 1 ? Math.min(99.9, 100 * ratio) : 100
  return `${decimal.format(Math.floor(value * 10) / 10)} %`
}

/** Format a duration: 400 ms, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds: number): string {
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`
  const rounded = Math.round(seconds)
  if (rounded < 60) return `${rounded} s`
  if (rounded < HOUR) return twoUnits(Math.floor(rounded / 60), 'min', rounded % 60, 's')
  if (rounded < DAY) {
    return twoUnits(Math.floor(rounded / HOUR), 'h', Math.floor((rounded % HOUR) / 60), 'min')
  }
  return twoUnits(Math.floor(rounded / DAY), 'd', Math.floor((rounded % DAY) / HOUR), 'h')
}

function twoUnits(large: number, unit: string, small: number, smallUnit: string): string {
  return small ? `${large} ${unit} ${small} ${smallUnit}` : `${large} ${unit}`
}
