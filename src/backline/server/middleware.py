"""Checks, logs and completes every HTTP request outside the routes.

The checks are host, origin, rate and body size. Every response gets a request id and the security
headers.
"""

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
from backline.server.auth import AccessPolicy, RateLimit
from backline.server.metrics import Metrics
from backline.server.problems import problem_of

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
EXPOSED_HEADERS: Final = ("X-Request-ID", "Retry-After", "X-Backline-Truncated")
_UNLIMITED: Final = ("/health", "/assets/")

# Scripts only from the page's origin. Inline styles, because component libraries position with
# them.
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


class RequestMiddleware:
    """The outermost ASGI layer of the application."""

    def __init__(
        self,
        app: ASGIApp,
        policy: AccessPolicy,
        rate_limit: RateLimit,
        metrics: Metrics,
        max_body_bytes: int,
        root_path: str = "",
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._policy = policy
        self._rate_limit = rate_limit
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # WebSockets are checked where they are accepted
            await self._app(self._without_root(scope), receive, send)
            return
        scope = self._without_root(scope)
        headers = headers_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id(headers)
        with structlog.contextvars.bound_contextvars(request_id=scope["state"]["request_id"]):
            await _Exchange(self, scope, headers).run(self._app, receive, send)

    def _without_root(self, scope: Scope) -> Scope:
        """Return the scope with the path that the routes know; some proxies strip it themselves."""
        path = scope.get("path", "")
        if not self._root_path or not f"{path}/".startswith(f"{self._root_path}/"):
            return scope
        return {**scope, "path": path.removeprefix(self._root_path) or "/"}

    def check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Raise a BacklineError for a request that no route may handle."""
        host = headers.get("host")
        self._policy.check_host(host)
        if scope["method"] not in _SAFE_METHODS:
            self._policy.check_origin(headers.get("origin"), host)
        if not scope["path"].startswith(_UNLIMITED):
            self._rate_limit.take(address_of(scope), self._policy.access(headers))
        self.check_size(int_or(headers.get("content-length")))

    def check_size(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise errors.TooLargeError(
                f"The body is larger than {self._max_body_bytes:,} bytes. Send it in parts, or "
                "raise BACKLINE_MAX_BODY_BYTES."
            )

    def cors_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers without which a page of an allowed origin cannot read a response."""
        origin = headers.get("origin", "")
        if not origin or not self._policy.allows_origin(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": ", ".join(EXPOSED_HEADERS),
        }

    def record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        """Count and log one finished request."""
        route = getattr(scope.get("route"), "path", None) or "other"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        level = "info" if status < 500 else "warning"
        getattr(log, level)(
            "request", method=method, path=scope["path"], status=status,
            ms=round(1000 * seconds, 1), client=address_of(scope),
        )  # fmt: skip


class _Exchange:
    """One request and its response."""

    def __init__(
        self, middleware: RequestMiddleware, scope: Scope, headers: Mapping[str, str]
    ) -> None:
        self._middleware = middleware
        self._method = scope["method"]
        # The routes know GET only. The HTTP server sends no body in response to HEAD.
        self._scope = {**scope, "method": "GET"} if self._method == "HEAD" else scope
        self._headers = headers
        self._cors = middleware.cors_headers(headers)
        self._received = 0
        self._status = 0

    async def run(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def receive_limited() -> Message:
            message = await receive()
            self._received += len(message.get("body", b""))
            try:
                self._middleware.check_size(self._received)
            except errors.TooLargeError as error:
                # FastAPI turns every other exception raised here into a 400.
                raise HTTPException(413, str(error)) from error
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(message)
            await send(message)

        try:
            self._middleware.check(self._scope, self._headers)
            await app(self._scope, receive_limited, send_with_headers)
        except Exception as error:
            if self._status:  # the response has started, so its status cannot change
                raise
            await self._send_problem(error, receive, send_with_headers)
        finally:
            self._middleware.record(
                self._scope, self._method, self._status, time.perf_counter() - began
            )

    async def _send_problem(self, error: Exception, receive: Receive, send: Send) -> None:
        problem = problem_of(error)
        if problem.kind == "internal":
            log.error("bug", exc_info=error)
        response = problem.response(self._scope["path"], self._scope["state"]["request_id"])
        await response(self._scope, receive, send)

    def _add_headers(self, message: Message) -> None:
        self._status = message["status"]
        headers = MutableHeaders(scope=message)
        headers["X-Request-ID"] = self._scope["state"]["request_id"]
        for name, value in self._cors.items():
            headers.setdefault(name, value)
        if self._cors:
            headers.add_vary_header("Origin")
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        if not self._scope["path"].startswith("/assets/"):
            headers.setdefault("Cache-Control", "no-store")


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the request headers by lower-case name.

    Starlette's `Headers` searches its list on every access and raises for a missing name, which
    took a tenth of the time of a small request.
    """
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def request_id(headers: Mapping[str, str]) -> str:
    """Return the request's id from its header if it is safe to log, else a new one."""
    value = headers.get("x-request-id", "")
    return value if _ID.fullmatch(value) else uuid.uuid4().hex


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def int_or(text: str | None, default: int = 0) -> int:
    return int(text) if text is not None and text.isdecimal() else default
