import { fileURLToPath } from 'node:url'
import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

const server = process.env.BACKLINE_URL ?? 'http://127.0.0.1:8000'
const paths = ['/api', '/codette', '/v1', '/health', '/metrics', '/docs', '/openapi.json']

export default defineConfig({
  plugins: [react()],
  resolve: { alias: { '@': fileURLToPath(new URL('./src', import.meta.url)) } },
  // The server puts its own path before the links of the page; those in its files are relative.
  base: './',
  build: {
    outDir: fileURLToPath(new URL('../src/backline/server/static', import.meta.url)),
    emptyOutDir: true,
    // The server's Content-Security-Policy restricts the page to its own files.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    manifest: true,
    chunkSizeWarningLimit: 600, // scripts/budget.mjs checks the compressed size
    target: 'es2022',
  },
  server: {
    proxy: {
      ...Object.fromEntries(paths.map((path) => [path, { target: server, changeOrigin: true }])),
      '/ws': {
        target: server,
        ws: true,
        changeOrigin: true,
        // The server requires the origin of a socket to equal its own address.
        rewriteWsOrigin: true,
      },
    },
  },
})
