// Made by `make docs` from src/backline/data/outcomes.json. Do not edit.

export const OUTCOMES = {
  gone: "There is no row with this id.",
  changed: "The row's text differs from the text that was sent. Send the text that the table has.",
  unstable: "Storing the vector changes the row. Its dead letter says how: backline failures.",
  busy: "An open transaction holds the row. Send it again later.",
  lost: "The row's vector is no longer in the cache. Send the row again.",
  twice: "This id came before in the request. Only its first text counts.",
  time: "No time was left for this row. Send it again.",
} as const;

export type Outcome = keyof typeof OUTCOMES;
