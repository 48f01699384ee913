import * as v from 'valibot'
import { ProtocolError } from './errors'

/** Validate a response. Throw a ProtocolError that names the first invalid member. */
export function parsed<S extends v.GenericSchema>(
  schema: S,
  data: unknown,
  source: string,
): v.InferOutput<S> {
  const result = v.safeParse(schema, data)
  if (result.success) return result.output
  const [issue] = result.issues
  const path = v.getDotPath(issue)
  throw new ProtocolError(
    `Unexpected response to ${source}: ${path ? `${path}: ` : ''}${issue.message}`,
  )
}
