import { describe, expect, it, vi } from 'vitest'
import { perSecond } from '@/features/coverage/format'
import { duration, percent } from '@/shared/format/numbers'

it('formats times with the zone of the browser', async () => {
  for (const [zone, text] of [
    ['UTC', '21 Nov, 23:58 UTC'],
    ['Asia/Kolkata', '22 Nov, 05:28 GMT+5:30'],
  ]) {
    vi.stubEnv('TZ', zone)
    vi.resetModules()
    const { dateTime } = await import('@/features/coverage/format')
    expect(dateTime('2026-11-21T23:58:00Z')).toBe(text)
  }
  vi.unstubAllEnvs()
})

describe('coverage figures', () => {
  it('formats durations with at most two units', () => {
    expect([0.04, 1.26, 59.4, 200, 7500, 100_000].map(duration)).toEqual([
      '40 ms',
      '1.3 s',
      '59 s',
      '3 min 20 s',
      '2 h 5 min',
      '1 d 3 h',
    ])
  })

  it('formats 100 % for a complete ratio only', () => {
    expect([1, 0.99996, 0.5].map(percent)).toEqual(['100 %', '99.9 %', '50 %'])
  })

  it('rounds large rates and formats no rate as an empty string', () => {
    expect([null, 0, 3.12, 1234.5].map(perSecond)).toEqual(['', '', '3.1 rows/s', '1,235 rows/s'])
  })
})
