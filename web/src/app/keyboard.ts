/** Runs actions on key presses. In a text field or a dialog, only chords with Mod run actions. */
import { useLayoutEffect } from 'react'
import { registry } from '@/shared/actions/registry'
import { chordOf, shortcuts } from '@/shared/actions/shortcuts'

/** Maximum time between the keys of a sequence, long enough to search for each key. */
const SEQUENCE_MS = 2_500

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

/** Return whether the focused element handles the key. */
function isHandledByFocus(event: KeyboardEvent, chord: string): boolean {
  const target = event.target
  if (isIn(target, '[data-takes-keys]')) return true
  if (chord.startsWith('Mod+'))
    return chord === 'Mod+Z' || chord === 'Mod+Shift+Z' ? isTyping(target) : false
  if (isTyping(target) || isIn(target, '[role="dialog"]')) return true
  // These widgets handle arrow keys.
  return (
    chord.startsWith('Arrow') &&
    isIn(target, '[role="listbox"], [role="radiogroup"], [role="menu"], [role="tablist"]')
  )
}

export function useKeyboard(): void {
  // A layout effect, so that keys work as soon as the page is visible.
  useLayoutEffect(() => {
    let pressed: string[] = []
    let timer: ReturnType<typeof setTimeout> | undefined
    const reset = () => {
      pressed = []
    }
    const onKey = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing) return
      const chord = chordOf(event)
      if (!chord || isHandledByFocus(event, chord)) return
      clearTimeout(timer)
      const match = shortcuts.match([...pressed, chord]) ?? shortcuts.match([chord])
      pressed = match === 'prefix' ? [...pressed, chord] : []
      if (match === 'prefix') timer = setTimeout(reset, SEQUENCE_MS)
      if (!match || match === 'prefix') return
      // The browser's undo would change a field without focus.
      if (match.startsWith('history.')) event.preventDefault()
      if (!registry.can(match)) return
      event.preventDefault()
      void registry.run(match)
    }
    window.addEventListener('keydown', onKey)
    return () => {
      clearTimeout(timer)
      window.removeEventListener('keydown', onKey)
    }
  }, [])
}
