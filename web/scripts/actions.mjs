// Makes src/shared/actions/actions.gen.ts from src/backline/data/actions.json, which the server and
// the documentation read too. With --check it only compares.
import { readFileSync, writeFileSync } from 'node:fs'

const source = new URL('../../src/backline/data/actions.json', import.meta.url)
const target = new URL('../src/shared/actions/actions.gen.ts', import.meta.url)
const FIRST = 44100
const LAST = 44999

function duplicates(values) {
  return values.filter((value, at) => value !== null && values.indexOf(value) !== at)
}

function check(actions) {
  const wrong = [
    ...actions
      .filter(({ id }) => !(id >= FIRST && id <= LAST))
      .map(({ id }) => `id ${id} is out of range`),
    ...duplicates(actions.map(({ id }) => id)).map((id) => `id ${id} is there twice`),
    ...duplicates(actions.map(({ name }) => name)).map((name) => `name ${name} is there twice`),
    ...duplicates(actions.map(({ shortcut }) => shortcut)).map(
      (keys) => `shortcut ${keys} is there twice`,
    ),
  ]
  if (wrong.length) throw new Error(`actions.json: ${wrong.join('; ')}`)
}

/** What the palette offers it runs without parameters: there they are optional. */
function parametersOf({ name, parameters, palette }) {
  const mark = palette ? '?' : ''
  const members = Object.entries(parameters).map(([key, type]) => `${key}${mark}: ${type}`)
  const type = members.length ? `{ ${members.join('; ')} }` : 'Record<string, never>'
  return `  '${name}': ${type}`
}

function entry({
  id,
  name,
  title,
  category,
  description,
  contexts,
  shortcut,
  undoable,
  when,
  palette,
}) {
  return `  ${JSON.stringify({ id, name, title, category, description, contexts, shortcut, undoable, when, palette })},`
}

function generated(actions) {
  return [
    '// Made by `npm run actions` from src/backline/data/actions.json. Do not edit.',
    '',
    'export interface ActionParameters {',
    ...actions.map(parametersOf),
    '}',
    '',
    'export type ActionName = keyof ActionParameters',
    `export type Fact =\n${[...new Set(actions.flatMap(({ when }) => when))].map((fact) => `  | '${fact}'`).join('\n')}`,
    '',
    'export interface ActionDefinition {',
    '  readonly id: number',
    '  readonly name: ActionName',
    '  readonly title: string',
    '  readonly category: string',
    '  readonly description: string',
    '  readonly contexts: readonly string[]',
    '  readonly shortcut: string | null',
    '  readonly undoable: boolean',
    '  readonly when: readonly Fact[]',
    '  readonly palette: boolean',
    '}',
    '',
    'export const ACTIONS: readonly ActionDefinition[] = [',
    ...actions.map(entry),
    ']',
    '',
  ].join('\n')
}

const { actions } = JSON.parse(readFileSync(source, 'utf8'))
check(actions)
const text = generated(actions)
if (process.argv.includes('--check')) {
  let present = ''
  try {
    present = readFileSync(target, 'utf8')
  } catch {
    // It is missing, and so it differs.
  }
  if (present !== text) {
    console.error(
      'src/shared/actions/actions.gen.ts is not what actions.json says: npm run actions',
    )
    process.exit(1)
  }
} else {
  writeFileSync(target, text)
}
