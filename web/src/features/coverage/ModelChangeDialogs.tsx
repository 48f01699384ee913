/** The dialogs that begin a change of the model and confirm its steps. */
import { type FormEvent, useId, useState } from 'react'
import type {
  ModelChange,
  ModelChangePlan,
  ModelChangeRequest,
  ModelChangeStatus,
  ModelChangeStep,
} from '@/shared/bridge/codetteBridge'
import { useBridge } from '@/shared/bridge/context'
import { duration } from '@/shared/format/numbers'
import { Button, Dialog } from '@/shared/ui'
import { count } from './format'
import css from './modelChange.module.css'

const ONLINE_ONLY = { queue: false }

interface Closing {
  onClose: () => void
  onDone: (status: ModelChangeStatus, words: string) => void
}

/** Run one request at a time and keep the message of its error. */
function useRequest() {
  const [busy, setBusy] = useState(false)
  const [failure, setFailure] = useState<string | null>(null)
  const run = async (request: () => Promise<void>) => {
    if (busy) return
    setBusy(true)
    setFailure(null)
    try {
      await request()
    } catch (error) {
      setFailure(error instanceof Error ? error.message : String(error))
    } finally {
      setBusy(false)
    }
  }
  return { busy, failure, run }
}

/** Ask for the model, show the plan with its price, and begin. */
export function BeginDialog({ status, onClose, onDone }: Closing & { status: ModelChangeStatus }) {
  const bridge = useBridge()
  const { busy, failure, run } = useRequest()
  const [plan, setPlan] = useState<{ of: ModelChangeRequest; plan: ModelChangePlan } | null>(null)
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const request = requestOf(new FormData(event.currentTarget))
    void run(async () => {
      const found = await bridge.planModelChange(status.collection, request, ONLINE_ONLY)
      setPlan({ of: request, plan: found })
    })
  }
  const begin = () =>
    run(async () => {
      if (!plan) return
      const request = { ...plan.of, yes: true }
      const begun = await bridge.beginModelChange(status.collection, request, ONLINE_ONLY)
      onDone(begun, `The change of ${status.collection} has begun`)
    })
  return (
    <Dialog open onOpenChange={onClose} title={`Change the model of ${status.collection}`}>
      <form className={css.form} onSubmit={submit} onChange={() => setPlan(null)}>
        <Fields models={status.models} />
        {failure && (
          <p role="alert" className={css.failure}>
            {failure}
          </p>
        )}
        {plan && <PlanFacts plan={plan.plan} />}
        <div className={css.row}>
          {plan ? (
            <Button kind="primary" aria-disabled={busy} onClick={() => void begin()}>
              {plan.plan.dollars === 0 ? 'Begin' : 'Pay and begin'}
            </Button>
          ) : (
            <Button type="submit" kind="primary" aria-disabled={busy}>
              {busy ? 'Reading the texts' : 'Show plan'}
            </Button>
          )}
          <Button onClick={onClose}>Close</Button>
        </div>
      </form>
    </Dialog>
  )
}

function Fields({ models }: { models: readonly string[] }) {
  const id = useId()
  return (
    <>
      <label htmlFor={`${id}-model`}>Model</label>
      <input
        id={`${id}-model`}
        name="model"
        list={`${id}-models`}
        placeholder="the present one"
        autoComplete="off"
        className={css.input}
      />
      <datalist id={`${id}-models`}>
        {models.map((model) => (
          <option key={model} value={model} />
        ))}
      </datalist>
      <label htmlFor={`${id}-type`}>Type of the vectors</label>
      <select id={`${id}-type`} name="columnType" className={css.input}>
        <option value="">as they are</option>
        <option value="vector">vector, 32 bits a number</option>
        <option value="halfvec">halfvec, 16 bits a number</option>
      </select>
      <label htmlFor={`${id}-passages`}>Passages</label>
      <select id={`${id}-passages`} name="passages" className={css.input}>
        <option value="">as they are</option>
        {['none', 'auto', 'paragraphs', 'markdown', 'sentences', 'tokens'].map((unit) => (
          <option key={unit}>{unit}</option>
        ))}
      </select>
    </>
  )
}

/** Return the request of a filled form; an empty field is left out. */
export function requestOf(form: FormData): ModelChangeRequest {
  const given = ['model', 'columnType', 'passages'].flatMap((name) => {
    const value = String(form.get(name) ?? '').trim()
    return value ? [[name, value]] : []
  })
  return Object.fromEntries(given) as ModelChangeRequest
}

/** Say what the vectors cost. */
export function priceOf({ copies, dollars, texts, tokens }: ModelChangePlan): string {
  if (copies) return 'None: they are computed from the present ones.'
  const amount = `${count(texts)} ${texts === 1 ? 'text' : 'texts'}, ${count(tokens)} tokens`
  if (dollars === null) return `${amount}, the price is not known`
  return dollars === 0 ? `${amount}, free` : `${amount}, about $${dollars.toFixed(2)}`
}

/** What a change costs and what it changes. */
export function PlanFacts({ plan }: { plan: ModelChangePlan }) {
  return (
    <dl className={css.plan} data-testid="model-plan">
      {plan.differences.map(({ name, present, new: value }) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>
            {present} → {value}
          </dd>
        </div>
      ))}
      <div>
        <dt>Vectors</dt>
        <dd>{priceOf(plan)}</dd>
      </div>
      {!plan.copies && (
        <div>
          <dt>Time</dt>
          <dd>
            {plan.seconds === null ? 'unknown' : `about ${duration(plan.seconds)}`},{' '}
            {plan.timeBasis}
          </dd>
        </div>
      )}
      <div>
        <dt>Disk</dt>
        <dd>{count(Math.ceil(plan.bytes / 1e6))} MB more, until the former vectors are retired</dd>
      </div>
    </dl>
  )
}

const TITLES: Record<ModelChangeStep, string> = {
  cutover: 'Cut over',
  rollback: 'Roll back',
  retire: 'Retire the former vectors',
  cancel: 'Cancel the change',
}

/** Say what a step does. */
export function questionOf(step: ModelChangeStep, { formerModel, newModel }: ModelChange): string {
  switch (step) {
    case 'cutover':
      return `Searches use the vectors of ${newModel} from now on. Those of ${formerModel} stay for a rollback.`
    case 'rollback':
      return `Searches use the vectors of ${formerModel} again. Those of ${newModel} stay.`
    case 'retire':
      return `The vectors of ${formerModel} are dropped. A rollback is not possible afterwards.`
    case 'cancel':
      return `The vectors of ${newModel} are dropped. ${formerModel} is searched as before.`
  }
}

/** Confirm a step and take it. */
export function StepDialog({
  change,
  step,
  onClose,
  onDone,
}: Closing & { change: ModelChange; step: ModelChangeStep }) {
  const bridge = useBridge()
  const { busy, failure, run } = useRequest()
  const [freeze, setFreeze] = useState(false)
  const id = useId()
  const take = () =>
    run(async () => {
      const request = step === 'cutover' && freeze ? { freeze } : {}
      const status = await bridge.stepModelChange(change.name, step, request, ONLINE_ONLY)
      onDone(status, `${TITLES[step]}: done`)
    })
  return (
    <Dialog open onOpenChange={onClose} title={`${TITLES[step]}?`}>
      <div className={css.form}>
        <p>{questionOf(step, change)}</p>
        {step === 'cutover' && (
          <label htmlFor={id} className={css.check}>
            <input
              id={id}
              type="checkbox"
              checked={freeze}
              onChange={(event) => setFreeze(event.target.checked)}
            />
            Stop keeping the former vectors fresh, which saves their cost
          </label>
        )}
        {failure && (
          <p role="alert" className={css.failure}>
            {failure}
          </p>
        )}
        <div className={css.row}>
          <Button
            kind={step === 'retire' || step === 'cancel' ? 'danger' : 'primary'}
            aria-disabled={busy}
            onClick={() => void take()}
          >
            {TITLES[step]}
          </Button>
          <Button onClick={onClose}>Close</Button>
        </div>
      </div>
    </Dialog>
  )
}
