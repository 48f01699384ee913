export interface FieldError {
  field: string
  message: string
}

/** Everything that the bridge throws. */
export class BridgeError extends Error {
  override name = 'BridgeError'
}

/** The server refused, and says why (RFC 9457). */
export class ProblemError extends BridgeError {
  override name = 'ProblemError'
  readonly status: number
  readonly title: string
  readonly requestId: string | null
  readonly fields: readonly FieldError[]

  constructor(
    status: number,
    title: string,
    detail: string,
    requestId: string | null = null,
    fields: readonly FieldError[] = [],
  ) {
    super(detail)
    this.status = status
    this.title = title
    this.requestId = requestId
    this.fields = fields
  }

  get needsKey(): boolean {
    return this.status === 401 || this.status === 403
  }
}

/** The server was not reached; nothing was sent, or it is not known whether it arrived. */
export class OfflineError extends BridgeError {
  override name = 'OfflineError'
  /** Whether the request may have reached the server. It is never sent again by itself. */
  readonly maybeSent: boolean

  constructor(message: string, maybeSent: boolean) {
    super(message)
    this.maybeSent = maybeSent
  }
}

/** The answer is not what this studio understands: another version of the server. */
export class ProtocolError extends BridgeError {
  override name = 'ProtocolError'
}
