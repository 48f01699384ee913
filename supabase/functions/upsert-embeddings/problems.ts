// Errors are sent as RFC 9457 problem details, as by the Backline server.

const TITLES: Record<number, string> = {
  400: "Request not understood",
  401: "Key required",
  404: "Not found",
  405: "Method not allowed",
  409: "Conflict with the present state",
  413: "Request too large",
  422: "Request not understood",
  429: "Too many requests",
  500: "Internal error",
  502: "The embedding provider refuses",
  503: "Not available now",
};

export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    detail: string,
    /** Seconds after which to retry, if a retry can help. */
    readonly retryAfter: number | null = null,
  ) {
    super(detail);
  }

  response(instance: string, requestId: string): Response {
    const headers = new Headers({ "content-type": "application/problem+json" });
    if (this.retryAfter !== null) headers.set("retry-after", String(Math.ceil(this.retryAfter)));
    if (this.status === 401) headers.set("www-authenticate", "Bearer");
    const body = {
      type: `urn:backline:problem:${this.kind}`,
      title: TITLES[this.status] ?? "Error",
      status: this.status,
      detail: this.message,
      instance,
      request_id: requestId,
    };
    return new Response(JSON.stringify(body), { status: this.status, headers });
  }
}
