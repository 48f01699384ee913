"""Converts errors to HTTP responses. Other modules raise an error and set no status.

Every error is sent as RFC 9457 problem details. On /v1 the member `error` repeats the message in
the form that OpenAI's clients read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match

from backline import errors

MEDIA_TYPE: Final = "application/problem+json"
RETRY_SECONDS: Final = 1
METHODS: Final = ("GET", "HEAD", "POST")

log = structlog.get_logger("backline.server")

# The most specific class of an error applies.
STATUSES: Final[Mapping[type[BaseException], int]] = {
    errors.UsageError: 422,
    errors.ColumnNotFoundError: 422,
    errors.InputRejectedError: 422,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.CollectionNotFoundError: 404,
    errors.RunNotFoundError: 404,
    errors.ModelNotFoundError: 404,
    errors.RunEndedError: 409,
    errors.RunInProgressError: 409,
    errors.RowRefusedError: 409,
    errors.ConfigurationError: 409,
    errors.TooLargeError: 413,
    errors.RateLimitedError: 429,
    errors.OverloadedError: 429,
    errors.ProviderRefusedError: 502,
    errors.EmbedderError: 503,
    errors.WeightsError: 503,
    errors.NotMigratedError: 503,
    errors.ContentionError: 503,
    errors.DatabaseUnavailableError: 503,
    errors.DatabaseFullError: 507,
    errors.StatementTimeoutError: 504,
    errors.BacklineError: 500,
}
TITLES: Final[Mapping[int, str]] = {
    400: "Request not readable",
    401: "Key required",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict with the present state",
    413: "Request too large",
    422: "Request not understood",
    426: "WebSocket expected",
    429: "Too many requests",
    500: "Internal error",
    502: "The embedding provider refuses",
    503: "Not available now",
    504: "Took too long",
    507: "No space left",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem to send. `retry_after` is in seconds."""

    status: int
    kind: str
    detail: str
    retry_after: int | None = None
    errors: Sequence[Mapping[str, Any]] = ()
    allow: Sequence[str] = ()

    @property
    def title(self) -> str:
        return TITLES.get(self.status) or HTTPStatus(self.status).phrase

    def body(self, path: str, request_id: str) -> dict[str, Any]:
        """Return the problem details for a request to `path`."""
        body: dict[str, Any] = {
            "type": f"urn:backline:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
            "request_id": request_id,
        }
        if self.errors:
            body["errors"] = list(self.errors)
        if path.startswith("/v1/"):
            body["error"] = {
                "message": self.detail,
                "type": "server_error" if self.status >= 500 else "invalid_request_error",
                "param": self.errors[0]["field"].removeprefix("body.") if self.errors else None,
                "code": self.kind,
            }
        return body

    def response(self, path: str, request_id: str) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 426:
            headers["Upgrade"] = "websocket"
        if self.allow:
            headers["Allow"] = ", ".join(self.allow)
        return JSONResponse(
            self.body(path, request_id), self.status, headers=headers, media_type=MEDIA_TYPE
        )


def problem_of(error: BaseException) -> Problem:
    """Return the problem for any error."""
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return Problem(error.status_code, "http", str(error.detail))
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)
    if status is None:
        return Problem(
            500,
            "internal",
            "This is a bug in Backline; stored data is safe. The server's log has details under "
            "the request id.",
        )
    return Problem(status, type(error).__name__, str(error), _retry_after(error, status))


def _retry_after(error: BaseException, status: int) -> int | None:
    if isinstance(error, errors.RateLimitedError) and error.retry_after is not None:
        return max(1, math.ceil(error.retry_after))
    temporary = not isinstance(error, errors.ConfigurationError)
    return RETRY_SECONDS if status in (429, 503, 504) and temporary else None


def _invalid(error: RequestValidationError) -> Problem:
    """Return the problem for an invalid request, without its values: they may be secret."""
    fields = [
        {"field": ".".join(str(step) for step in item["loc"]), "message": item["msg"]}
        for item in error.errors()
    ]
    message = "; ".join(f"{item['field']}: {item['message']}" for item in fields)
    detail = f"The request is not as documented. {message}."
    return Problem(422, "validation", detail, errors=fields)


async def handle_exception(request: Request, error: Exception) -> JSONResponse:
    """Return the response for an exception of any route."""
    problem = problem_of(error)
    if problem.status >= 500:
        log.warning("request failed", error=str(error), kind=type(error).__name__)
    if problem.status == 405:
        problem = _wrong_method(request)
    return problem.response(request.url.path, request.state.request_id)


def _wrong_method(request: Request) -> Problem:
    """Return the problem for a path that accepts other methods than the request's."""
    allowed = tuple(
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": "GET" if method == "HEAD" else method})[0]
            is Match.FULL
            for route in request.app.routes
        )
    )
    detail = f"{request.method[:20]} is not allowed here; send {' or '.join(allowed)}."
    return Problem(405, "http", detail, allow=allowed)
