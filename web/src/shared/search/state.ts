import { param, type StateOf } from '../url'

export const MODES = ['hybrid', 'semantic', 'keyword'] as const
export const PAGE_SIZE = 10
export const MAX_RESULTS = 50
export const MAX_BPM = 400

/** The search state that Ask and Map keep in the address. */
export const searchSchema = {
  q: param.text(),
  collection: param.text(),
  category: param.optional(),
  track: param.optional(),
  genre: param.optional(),
  bpm: param.number(null, 1, MAX_BPM),
  mode: param.oneOf(MODES, 'hybrid'),
  /** Key of the selected result. The default is the first result. */
  key: param.optional(),
  /** Number of results. */
  n: param.number(PAGE_SIZE, PAGE_SIZE, MAX_RESULTS),
  /** Whether to show the nearest entries when no result is relevant. */
  nearest: param.oneOf(['yes', 'no'] as const, 'no'),
}

export type SearchState = StateOf<typeof searchSchema>
