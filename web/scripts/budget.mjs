// Fails where the page's JavaScript is over its budget, compressed as a server would.
import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'

const BUDGET = 200_000
const root = new URL('../../src/backline/server/static/', import.meta.url)
const manifest = JSON.parse(readFileSync(new URL('.vite/manifest.json', root), 'utf8'))

/** The file of an entry and of everything that it imports at once. */
function closure(key, found = new Set()) {
  const chunk = manifest[key]
  if (!chunk || found.has(chunk.file)) return found
  found.add(chunk.file)
  for (const each of chunk.imports ?? []) closure(each, found)
  return found
}

const entry = Object.keys(manifest).find((key) => manifest[key].isEntry)
if (!entry) throw new Error('The build has no entry.')
const files = closure(entry)
const sizes = [...files].map((file) => [file, gzipSync(readFileSync(new URL(file, root))).length])
const total = sizes.reduce((sum, [, size]) => sum + size, 0)
for (const [file, size] of sizes) console.log(`${String(size).padStart(8)}  ${file}`)
console.log(`${String(total).padStart(8)}  the page, gzip; the budget is ${BUDGET}`)
if (total > BUDGET) {
  console.error(`The page is ${total - BUDGET} bytes over its budget.`)
  process.exit(1)
}
