/** Checks the import direction: main → app → features → shared. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const SOURCE = fileURLToPath(new URL('../src', import.meta.url))
/** The top-level folders that a layer may import, besides itself. */
const IMPORTS: Record<string, readonly string[]> = {
  main: ['app', 'shared'],
  app: ['features', 'shared'],
  features: ['shared'],
  shared: [],
}

/** Return the layer of a file below src: `main`, `app`, `features/map`, `shared`. */
function layerOf(file: string): string {
  const [folder = '', name = ''] = file.replace(/\.tsx?$/, '').split('/')
  return folder === 'features' ? `features/${name}` : folder
}

const folderOf = (file: string) => layerOf(file).split('/')[0] ?? ''

/** Return the files below src that a source text imports; packages are omitted. */
function importsOf(file: string, text: string): string[] {
  const specifiers = [...text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*['"]([^'"]+)['"]/g)]
  return specifiers
    .map(([, specifier = '']) => specifier)
    .filter((specifier) => /^(@\/|\.)/.test(specifier))
    .map((specifier) =>
      specifier.startsWith('@/') ? specifier.slice(2) : posix.join(dirname(file), specifier),
    )
}

function violations(file: string, text: string): string[] {
  const allowed = IMPORTS[folderOf(file)]
  if (!allowed) return [`${file} belongs to no layer`]
  return importsOf(file, text)
    .filter((target) => layerOf(target) !== layerOf(file) && !allowed.includes(folderOf(target)))
    .map((target) => `${file} imports ${target}`)
}

function sourceFiles(): string[] {
  return readdirSync(SOURCE, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.tsx?$/.test(entry.name))
    .map((entry) => relative(SOURCE, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
}

describe('import direction', () => {
  test('every source file imports only from its layer and lower layers', () => {
    const files = sourceFiles()
    expect(files.length).toBeGreaterThan(50)
    expect(
      files.flatMap((file) => violations(file, readFileSync(join(SOURCE, file), 'utf8'))),
    ).toEqual([])
  })

  test.each([
    ['features/map/MapView.tsx', "import { Filters } from '../ask/Filters'"],
    ['features/map/MapView.tsx', "import { Filters } from '@/features/ask/Filters'"],
    ['features/map/MapView.tsx', "const view = import('../ask/AskView')"],
    ['features/map/MapView.tsx', "import { VIEWS } from '@/app/views'"],
    ['shared/ui/index.tsx', "export { Cloud } from '../../features/map/cloud'"],
    ['shared/ui/index.tsx', "import '@/app/layout.module.css'"],
    ['app/App.tsx', "import '../main'"],
    ['helpers/text.ts', ''],
  ])('an upward or sideways import in %s is a violation: %s', (file, text) => {
    expect(violations(file, text)).toHaveLength(1)
  })

  test.each([
    ['features/map/MapView.tsx', "import { Cloud } from './cloud'"],
    ['features/map/MapView.tsx', "import { Panel } from '@/shared/ui'"],
    ['shared/search/state.ts', "import { param } from '../url'"],
    ['app/App.tsx', "import MapView from '@/features/map/MapView'"],
    ['main.tsx', "import { App } from '@/app/App'"],
    ['main.tsx', "import { createRoot } from 'react-dom/client'"],
  ])('a downward import in %s is allowed: %s', (file, text) => {
    expect(violations(file, text)).toEqual([])
  })
})
