import { type KeyboardEvent, useState } from 'react'
import type { ActionDefinition } from '@/shared/actions/registry'
import { actionByName } from '@/shared/actions/registry'
import { chordOf, shortcuts } from '@/shared/actions/shortcuts'
import { runAction } from '@/shared/actions/useAction'
import { Button, Dialog } from '@/shared/ui'
import css from './actions.module.css'

/** Listens for the new keys, and says at once where they are taken. */
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

/** What the field itself needs. */
const OWN = new Set(['Tab', 'Shift+Tab', 'Escape', 'Enter'])
const LONGEST = 2

function Recorder({ action, onClose }: { action: ActionDefinition; onClose: () => void }) {
  const [pressed, press] = useState<readonly string[]>([])
  const sequence = pressed.join(' ')
  const taken = sequence ? shortcuts.conflict(action.name, sequence) : null
  const use = (shortcut: string | null) => {
    void runAction('shortcuts.rebind', { action: action.name, shortcut })
    onClose()
  }
  const onKey = (event: KeyboardEvent) => {
    const chord = chordOf(event)
    if (!chord || OWN.has(chord)) {
      if (chord === 'Enter' && sequence && !taken) use(sequence)
      return
    }
    event.preventDefault()
    event.stopPropagation()
    if (chord === 'Backspace') press([])
    else
      press((before) =>
        chord.length === 1 && before.length < LONGEST && before.every((each) => each.length === 1)
          ? [...before, chord]
          : [chord],
      )
  }
  return (
    <>
      <p className="quiet">
        Press the new keys: a chord, or two letters one after the other. Backspace starts again.
      </p>
      <input
        className={css.recorder}
        data-takes-keys
        readOnly
        aria-label="New shortcut"
        aria-describedby="rebind-says"
        // biome-ignore lint/a11y/noAutofocus: the dialog was opened to press keys
        autoFocus
        placeholder="Waiting for keys"
        value={shortcuts.spoken(sequence).filter(Boolean).join(' ')}
        onKeyDown={onKey}
      />
      <p id="rebind-says" role="status" className={taken ? css.taken : 'quiet'}>
        {taken
          ? `Taken by “${actionByName.get(taken)?.title}”. Press others, or change that one first.`
          : 'Enter uses them, Escape closes.'}
      </p>
      <div className={css.buttons}>
        <Button kind="primary" disabled={!sequence || taken !== null} onClick={() => use(sequence)}>
          Use
        </Button>
        <Button onClick={() => use(null)}>Remove</Button>
        <Button onClick={() => use(action.shortcut)}>Default</Button>
        <Button kind="ghost" onClick={onClose}>
          Cancel
        </Button>
      </div>
    </>
  )
}
