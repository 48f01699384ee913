"""What every request passes through before a route: id, host, origin, rate, size, log, headers."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backline import errors
from backline.server.auth import Guard, Rate
from backline.server.metrics import Metrics
from backline.server.problems import problem_of

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_UNLIMITED: Final = ("/health", "/assets/")

# The page's own scripts only; inline styles, because component libraries position with them.
PAGE_POLICY: Final = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "font-src 'self' data:; connect-src 'self' ws: wss:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'self'"
)
SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

log = structlog.get_logger("backline.http")


class Front:
    """The outermost layer of the application, in plain ASGI."""

    def __init__(
        self, app: ASGIApp, guard: Guard, rate: Rate, metrics: Metrics, max_body_bytes: int
    ) -> None:
        self._app = app
        self._guard = guard
        self._rate = rate
        self._metrics = metrics
        self._max_body = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a socket is looked at where it is accepted
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id(headers)
        with structlog.contextvars.bound_contextvars(request_id=scope["state"]["request_id"]):
            await _Exchange(self, scope, headers).run(self._app, receive, send)

    def check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Refuse what no route should see."""
        host = headers.get("host")
        self._guard.check_host(host)
        if scope["method"] not in _READS:
            self._guard.check_origin(headers.get("origin"), host)
        if not scope["path"].startswith(_UNLIMITED):
            self._rate.take(address_of(scope))
        self.check_size(int_or(headers.get("content-length")))

    def check_size(self, size: int) -> None:
        if size > self._max_body:
            raise errors.TooLargeError(
                f"The body is larger than {self._max_body:,} bytes. Send it in parts, or raise "
                "BACKLINE_MAX_BODY_BYTES."
            )

    def record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        self._metrics.requests.labels(scope["method"], route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        level = "info" if status < 500 else "warning"
        getattr(log, level)(
            "request", method=scope["method"], path=scope["path"], status=status,
            ms=round(1000 * seconds, 1), client=address_of(scope),
        )  # fmt: skip


class _Exchange:
    """One request and its answer."""

    def __init__(self, front: Front, scope: Scope, headers: Mapping[str, str]) -> None:
        self._front = front
        self._scope = scope
        self._headers = headers
        self._received = 0
        self._status = 0

    async def run(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def limited() -> Message:
            message = await receive()
            self._received += len(message.get("body", b""))
            try:
                self._front.check_size(self._received)
            except errors.TooLargeError as error:  # FastAPI lets no other kind through from here
                raise HTTPException(413, str(error)) from error
            return message

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._dress(message)
            await send(message)

        try:
            self._front.check(self._scope, self._headers)
            await app(self._scope, limited, dressed)
        except Exception as error:
            if self._status:  # the answer has begun, and can only be cut off
                raise
            await self._explain(error, receive, dressed)
        finally:
            self._front.record(self._scope, self._status, time.perf_counter() - began)

    async def _explain(self, error: Exception, receive: Receive, send: Send) -> None:
        problem = problem_of(error)
        if problem.kind == "internal":
            log.error("bug", exc_info=error)
        response = problem.response(self._scope["path"], self._scope["state"]["request_id"])
        await response(self._scope, receive, send)

    def _dress(self, message: Message) -> None:
        self._status = message["status"]
        headers = MutableHeaders(scope=message)
        headers["X-Request-ID"] = self._scope["state"]["request_id"]
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        if not self._scope["path"].startswith("/assets/"):
            headers.setdefault("Cache-Control", "no-store")


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers by their names in lower case.

    Starlette's own mapping searches the list each time, and raises inside for one that is not
    there: a tenth of the time of a small request.
    """
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def request_id(headers: Mapping[str, str]) -> str:
    """The caller's id for a request, where it is one that may stand in a log; else a new one."""
    given = headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def int_or(text: str | None, default: int = 0) -> int:
    return int(text) if text is not None and text.isdecimal() else default
