/** Figures as this view writes them. Numbers are grouped as in 12,345. */

const grouped = new Intl.NumberFormat('en-US')

export function count(value: number | null): string {
  return value === null ? 'not counted' : grouped.format(value)
}

/** A time span: 400 ms, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. */
export function span(seconds: number): string {
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return two(Math.floor(whole / 60), 'min', whole % 60, 's')
  if (whole < 86_400)
    return two(Math.floor(whole / 3600), 'h', Math.floor((whole % 3600) / 60), 'min')
  return two(Math.floor(whole / 86_400), 'd', Math.floor((whole % 86_400) / 3600), 'h')
}

function two(large: number, of: string, small: number, ofSmall: string): string {
  return small ? `${large} ${of} ${small} ${ofSmall}` : `${large} ${of}`
}

/** Rows a second. */
export function perSecond(rate: number | null): string {
  if (rate === null || rate <= 0) return ''
  return `${rate >= 100 ? grouped.format(Math.round(rate)) : Number(rate.toFixed(1))} rows/s`
}

/** 99.9 % and not 100 % while anything is missing. */
export function share(ratio: number): string {
  const percent = Math.floor(ratio * 1000) / 10
  return `${percent} %`
}

const clock = new Intl.DateTimeFormat('en-GB', {
  day: 'numeric',
  month: 'short',
  hour: '2-digit',
  minute: '2-digit',
})

/** A moment: 21 Nov, 05:58. */
export function moment(iso: string): string {
  return clock.format(new Date(iso))
}
