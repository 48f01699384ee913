import { describe, expect, it } from 'vitest'
import { perSecond, share, span } from '@/features/coverage/words'

describe('figures of coverage', () => {
  it('writes spans in the units that a person thinks in', () => {
    expect([0.04, 1.26, 59.4, 200, 7500, 100_000].map(span)).toEqual([
      '40 ms',
      '1.3 s',
      '59 s',
      '3 min 20 s',
      '2 h 5 min',
      '1 d 3 h',
    ])
  })

  it('says 100 % only where nothing is left', () => {
    expect([1, 0.99996, 0.5].map(share)).toEqual(['100 %', '99.9 %', '50 %'])
  })

  it('rounds rates by their size and is silent where there is none', () => {
    expect([null, 0, 3.12, 1234.5].map(perSecond)).toEqual(['', '', '3.1 rows/s', '1,235 rows/s'])
  })
})
