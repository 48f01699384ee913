import { type FormEvent, useId } from 'react'
import { runAction } from '@/shared/actions/useAction'
import { Button, Dialog } from '@/shared/ui'
import { openDialog, useOpenDialog } from './dialogs'
import css from './dialogs.module.css'

/** The form for the server's API key. */
export function KeyDialog() {
  const dialog = useOpenDialog()
  const id = useId()
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const key = String(new FormData(event.currentTarget).get('key') ?? '').trim()
    if (!key) return
    void runAction('session.setKey', { key })
    openDialog(null)
  }
  return (
    <Dialog open={dialog === 'key'} onOpenChange={() => openDialog(null)} title="API key">
      <form className={css.form} onSubmit={submit}>
        <p className="quiet">
          This server requires an API key for writes, and for reads if they are protected. The key
          is stored in this tab and removed when the tab is closed.
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
            Use key
          </Button>
          <Button onClick={() => openDialog(null)}>Cancel</Button>
        </div>
      </form>
    </Dialog>
  )
}
