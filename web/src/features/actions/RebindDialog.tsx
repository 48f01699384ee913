import { type KeyboardEvent, useState } from 'react'
import { type ActionDefinition, actionByName } from '@/shared/actions/registry'
import { chordOf, shortcuts } from '@/shared/actions/shortcuts'
import { runAction } from '@/shared/actions/useAction'
import { Button, Dialog } from '@/shared/ui'
import css from './actions.module.css'

/** Records a new shortcut and reports conflicts. */
export function RebindDialog({
  action,
  onClose,
}: {
  action: ActionDefinition | null
  onClose: () => void
}) {
  return (
    <Dialog
      open={action !== null}
      onOpenChange={onClose}
      title={action ? `Shortcut: ${action.title}` : 'Shortcut'}
    >
      {action && <Recorder key={action.name} action={action} onClose={onClose} />}
    </Dialog>
  )
}

/** Keys that the dialog uses. */
const RESERVED = new Set(['Tab', 'Shift+Tab', 'Escape', 'Enter'])
const MAX_KEYS = 2

/** Append a letter to a sequence of letters, or start again with the chord. */
function withChord(keys: readonly string[], chord: string): readonly string[] {
  const isSequence = [...keys, chord].every((key) => key.length === 1)
  return isSequence && keys.length < MAX_KEYS ? [...keys, chord] : [chord]
}

function Recorder({ action, onClose }: { action: ActionDefinition; onClose: () => void }) {
  const [keys, setKeys] = useState<readonly string[]>([])
  const shortcut = keys.join(' ')
  const conflict = shortcut ? shortcuts.conflict(action.name, shortcut) : null
  const canSave = shortcut !== '' && conflict === null
  const save = (changed: string | null) => {
    void runAction('shortcuts.rebind', { action: action.name, shortcut: changed })
    onClose()
  }
  const onKey = (event: KeyboardEvent) => {
    const chord = chordOf(event)
    if (chord === 'Enter' && canSave) save(shortcut)
    if (!chord || RESERVED.has(chord)) return
    event.preventDefault()
    event.stopPropagation()
    setKeys((before) => (chord === 'Backspace' ? [] : withChord(before, chord)))
  }
  return (
    <>
      <p className="quiet">
        Press a key combination, or two letters in sequence. Backspace clears the field.
      </p>
      <input
        className={css.recorder}
        data-takes-keys
        readOnly
        aria-label="New shortcut"
        aria-describedby="rebind-hint"
        // biome-ignore lint/a11y/noAutofocus: the user opened the dialog to press keys
        autoFocus
        placeholder="Press keys…"
        value={shortcuts.keyLabels(shortcut).filter(Boolean).join(' ')}
        onKeyDown={onKey}
      />
      <p id="rebind-hint" role="status" className={conflict ? css.conflict : 'quiet'}>
        {conflict
          ? `Already assigned to “${actionByName.get(conflict)?.title}”. Press another shortcut.`
          : 'Press Enter to save or Escape to cancel.'}
      </p>
      <div className={css.buttons}>
        <Button kind="primary" disabled={!canSave} onClick={() => save(shortcut)}>
          Save
        </Button>
        <Button onClick={() => save(null)}>Remove</Button>
        <Button onClick={() => save(action.shortcut)}>Reset to default</Button>
        <Button kind="ghost" onClick={onClose}>
          Cancel
        </Button>
      </div>
    </>
  )
}
