/** Keys to actions. While a person types, only chords with Mod count; in a dialog, none but those. */
import { useLayoutEffect } from 'react'
import { registry } from '../shared/actions/registry'
import { chordOf, shortcuts } from '../shared/actions/shortcuts'

/** Between the keys of a sequence; long enough for those who look for each key. */
const WAIT_MS = 2_500

function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false
  if (target.isContentEditable) return true
  const field = target.closest('input, textarea, select')
  return (
    field !== null &&
    !(field instanceof HTMLInputElement && /checkbox|radio|button/.test(field.type))
  )
}

function isIn(target: EventTarget | null, selector: string): boolean {
  return target instanceof HTMLElement && target.closest(selector) !== null
}

/** Whether keys belong to what has the focus rather than to the page. */
function belongsElsewhere(event: KeyboardEvent, chord: string): boolean {
  const target = event.target
  if (isIn(target, '[data-takes-keys]')) return true
  if (chord.startsWith('Mod+'))
    return chord === 'Mod+Z' || chord === 'Mod+Shift+Z' ? isTyping(target) : false
  if (isTyping(target) || isIn(target, '[role="dialog"]')) return true
  // Arrows move within these by themselves.
  return (
    chord.startsWith('Arrow') &&
    isIn(target, '[role="listbox"], [role="radiogroup"], [role="menu"], [role="tablist"]')
  )
}

export function useKeyboard(): void {
  // With the first picture of the page, so that what is seen hears keys.
  useLayoutEffect(() => {
    let pressed: string[] = []
    let timer: ReturnType<typeof setTimeout> | undefined
    const forget = () => {
      pressed = []
    }
    const onKey = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing) return
      const chord = chordOf(event)
      if (!chord || belongsElsewhere(event, chord)) return
      clearTimeout(timer)
      const found = shortcuts.match([...pressed, chord]) ?? shortcuts.match([chord])
      pressed = found === 'begun' ? [...pressed, chord] : []
      if (found === 'begun') timer = setTimeout(forget, WAIT_MS)
      if (!found || found === 'begun') return
      // The browser's own undo would change a field that nobody looks at.
      if (found.startsWith('history.')) event.preventDefault()
      if (!registry.can(found)) return
      event.preventDefault()
      void registry.run(found)
    }
    window.addEventListener('keydown', onKey)
    return () => {
      clearTimeout(timer)
      window.removeEventListener('keydown', onKey)
    }
  }, [])
}
