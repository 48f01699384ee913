export interface FieldError {
  field: string
  message: string
}

/** Base class of the errors that the bridge throws. */
export class BridgeError extends Error {
  override name = 'BridgeError'
}

/** The server returned an error status with an RFC 9457 problem. */
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

/** No response arrived. `maybeSent` states whether the server may have received the request. */
export class OfflineError extends BridgeError {
  override name = 'OfflineError'
  /** Whether the request may have reached the server. The bridge does not repeat such requests. */
  readonly maybeSent: boolean

  constructor(message: string, maybeSent: boolean) {
    super(message)
    this.maybeSent = maybeSent
  }

  static unreachable(maybeSent: boolean): OfflineError {
    return new OfflineError('The server is unreachable.', maybeSent)
  }

  static timeout(timeoutMs: number): OfflineError {
    const seconds = timeoutMs / 1000
    return new OfflineError(`The server did not respond within ${seconds} seconds.`, true)
  }
}

/** A response does not match its schema: the server has a different version. */
export class ProtocolError extends BridgeError {
  override name = 'ProtocolError'
}
