import { param, type StateOf } from '@/shared/url'

export const MODES = ['hybrid', 'semantic', 'keyword'] as const
export const PAGE = 10
export const MOST = 50
export const LARGEST_BPM = 400

/** What Ask keeps in its address. */
export const askSchema = {
  q: param.text(),
  collection: param.text(),
  category: param.optional(),
  track: param.optional(),
  genre: param.optional(),
  bpm: param.number(null, 1, LARGEST_BPM),
  mode: param.oneOf(MODES, 'hybrid'),
  /** The selected result; none: the first. */
  key: param.optional(),
  /** How many results. */
  n: param.number(PAGE, PAGE, MOST),
  /** Show the nearest though nothing relevant is known. */
  nearest: param.oneOf(['yes', 'no'] as const, 'no'),
}

export type AskState = StateOf<typeof askSchema>

export const TRACKS = [
  'vocals', 'drums', 'kick', 'snare', 'bass', 'electric guitar', 'acoustic guitar', 'piano', 'keys', 'synth',
  'strings', 'brass', 'mix bus', 'master',
] // biome-ignore format: a list
export const GENRES = [
  'pop', 'rock', 'metal', 'hip hop', 'r&b', 'jazz', 'electronic', 'house', 'techno', 'drum and bass', 'folk',
  'country', 'classical', 'ambient', 'podcast',
] // biome-ignore format: a list
