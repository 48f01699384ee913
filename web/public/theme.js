// Runs before the first paint, so that the page does not flash in the other theme.
;(() => {
  let theme = 'dark'
  try {
    theme = localStorage.getItem('backline.theme') || 'dark'
  } catch {
    // Storage is disabled: use the dark theme.
  }
  if (theme === 'system') {
    theme = matchMedia('(prefers-color-scheme: light)').matches ? 'light' : 'dark'
  }
  document.documentElement.dataset.theme = theme === 'light' ? 'light' : 'dark'
})()
