// Before the first paint, so that the page never flashes in the other theme.
;(() => {
  let theme = 'dark'
  try {
    theme = localStorage.getItem('backline.theme') || 'dark'
  } catch {
    // Storage is off: dark.
  }
  if (theme === 'system') {
    theme = matchMedia('(prefers-color-scheme: light)').matches ? 'light' : 'dark'
  }
  document.documentElement.dataset.theme = theme === 'light' ? 'light' : 'dark'
})()
