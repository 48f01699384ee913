import { type FormEvent, useId } from 'react'
import { runAction } from '../shared/actions/useAction'
import { Button, Dialog } from '../shared/ui'
import css from './dialogs.module.css'
import { open, useOpen } from './open'

/** Asks for the server's key. */
export function KeyDialog() {
  const opened = useOpen()
  const id = useId()
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const key = String(new FormData(event.currentTarget).get('key') ?? '').trim()
    if (!key) return
    void runAction('session.setKey', { key })
    open(null)
  }
  return (
    <Dialog open={opened === 'key'} onOpenChange={() => open(null)} title="API key">
      <form className={css.form} onSubmit={submit}>
        <p className="quiet">
          The server was started with a key. Enter it to write, and to read where reads are
          protected. It stays in this tab, and goes when the tab is closed.
        </p>
        <label htmlFor={id}>Key</label>
        <input
          id={id}
          name="key"
          type="password"
          autoComplete="off"
          className={css.input}
          required
        />
        <div className={css.row}>
          <Button type="submit" kind="primary">
            Use the key
          </Button>
          <Button onClick={() => open(null)}>Cancel</Button>
        </div>
      </form>
    </Dialog>
  )
}
