/** The values that the context fields offer. Any other text is accepted too. */
export const TRACKS = [
  'vocals', 'drums', 'kick', 'snare', 'bass', 'electric guitar', 'acoustic guitar', 'piano', 'keys',
  'synth', 'strings', 'brass', 'mix bus', 'master',
] // biome-ignore format: a list
export const GENRES = [
  'pop', 'rock', 'metal', 'hip hop', 'r&b', 'jazz', 'electronic', 'house', 'techno', 'drum and bass',
  'folk', 'country', 'classical', 'ambient', 'podcast',
] // biome-ignore format: a list
