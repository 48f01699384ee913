import { NOTHING } from '../actions/registry'
import { useAction } from '../actions/useAction'
import { useBridge } from '../bridge/context'
import { notify } from '../ui/Notices'
import {
  type Applied,
  apply,
  findApplied,
  hostNames,
  revert,
  type SuggestedParameters,
} from './applied'

/** Bind apply and revert. Each undoes the other. */
export function useApplyActions(selected: SuggestedParameters | undefined): void {
  const bridge = useBridge()
  const applyAndNotify = async (suggestion: SuggestedParameters) => {
    const applied = await apply(bridge, suggestion)
    notifyApplied(applied)
    return applied
  }
  const revertByKey = async (key: string) => (await revert(bridge, key)) ?? NOTHING
  useAction(
    'suggestion.apply',
    async (input) => {
      const { key, title = '', parameters } = { ...selected, ...input }
      if (!key || !parameters || findApplied(key)) return NOTHING
      return applyAndNotify({ key, title, parameters })
    },
    { undo: ({ key }, result) => revertByKey(key ?? (result as Applied).key) },
  )
  useAction('suggestion.revert', ({ key = selected?.key }) => (key ? revertByKey(key) : NOTHING), {
    undo: (_, reverted) => typeof reverted === 'object' && applyAndNotify(reverted),
  })
}

function notifyApplied({ state, title, hosts }: Applied): void {
  if (state === 'sent') notify(`Sent “${title}” to ${hostNames(hosts)}`, 'ok', 'history.undo')
  if (state === 'copied') {
    notify(`No host connected. Copied the parameters of “${title}”.`, 'ok', 'history.undo')
  }
  if (state === 'waiting') {
    notify(`“${title}” will be sent when the server is back`, 'info', 'history.undo')
  }
}
