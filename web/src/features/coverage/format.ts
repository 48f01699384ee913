/** Formats the figures of this view. */

const grouped = new Intl.NumberFormat('en-US')

/** Format a count with grouped digits: 12,345. */
export function count(value: number | null): string {
  return value === null ? 'not counted' : grouped.format(value)
}

/** Format a rate in rows per second. Return an empty string for null and 0. */
export function perSecond(rate: number | null): string {
  if (rate === null || rate <= 0) return ''
  return `${rate >= 100 ? grouped.format(Math.round(rate)) : Number(rate.toFixed(1))} rows/s`
}

const clock = new Intl.DateTimeFormat('en-GB', {
  day: 'numeric',
  month: 'short',
  hour: '2-digit',
  minute: '2-digit',
  timeZoneName: 'short',
})

/** Format a date and time in the browser's zone: 21 Nov, 05:58 UTC. */
export function dateTime(iso: string): string {
  return clock.format(new Date(iso))
}
