// Fails if the JavaScript of the page exceeds its budget after gzip.
import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'

const BUDGET = 200_000
const root = new URL('../../src/backline/server/static/', import.meta.url)
const manifest = JSON.parse(readFileSync(new URL('.vite/manifest.json', root), 'utf8'))

/** Return the files of an entry and of its static imports. */
function closure(key, files = new Set()) {
  const chunk = manifest[key]
  if (!chunk || files.has(chunk.file)) return files
  files.add(chunk.file)
  for (const imported of chunk.imports ?? []) closure(imported, files)
  return files
}

const entry = Object.keys(manifest).find((key) => manifest[key].isEntry)
if (!entry) throw new Error('The build has no entry.')
const files = closure(entry)
const sizes = [...files].map((file) => [file, gzipSync(readFileSync(new URL(file, root))).length])
const total = sizes.reduce((sum, [, size]) => sum + size, 0)
for (const [file, size] of sizes) console.log(`${String(size).padStart(8)}  ${file}`)
console.log(`${String(total).padStart(8)}  total, gzip (budget: ${BUDGET})`)
if (total > BUDGET) {
  console.error(`The page exceeds its budget by ${total - BUDGET} bytes.`)
  process.exit(1)
}
