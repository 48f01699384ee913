"""Limits the time, the size and the number of HTTP connections, which uvicorn does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backline.config import without_default_port
from backline.server.problems import MEDIA_TYPE, RETRY_SECONDS, Problem

MAX_HEADER_BYTES: Final = 64 * 1024
# A body that no route reads is discarded up to this size, so that its connection stays open.
MAX_DISCARDED_BYTES: Final = 256 * 1024
# Time for a client to read its response before the connection is reset.
LINGER_SECONDS: Final = 1.0
# Headers that decide about access. Proxies differ in which of two they believe.
SINGLE_HEADERS: Final = (b"host", b"origin", b"authorization", b"x-api-key")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of all connections. Times are in seconds."""

    connections: int
    header_timeout: float
    body_timeout: float
    origins: frozenset[str] = frozenset()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits for clients that send slowly or without end."""

    def __init__(self, *, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._header_bytes = 0
        self._discarded = 0
        self._cut = False
        self._fault: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        full = len(self.connections) >= self._limits.connections
        super().connection_made(transport)
        if full:
            self._refuse(Problem(
                503, "OverloadedError", "Too many connections are open. Try again later.",
                RETRY_SECONDS,
            ))  # fmt: skip
        else:
            self._wait(self._limits.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._cut:
            return
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait(self._limits.header_timeout)  # also for empty lines between requests
        super().data_received(data)
        self._header_bytes = self._header_bytes + len(data) if self._in_headers else 0
        if self._header_bytes > MAX_HEADER_BYTES and not self._cut:
            detail = f"The headers are larger than {MAX_HEADER_BYTES:,} bytes. Send fewer."
            self._refuse(Problem(431, "http", detail))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._discarded = 0
        self._wait(self._limits.header_timeout)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._wait(self._limits.body_timeout)
        if (name := _repeated(self.headers)) is not None:
            # httptools stops at an error of a callback, and uvicorn sends a 400.
            self._fault = f"The request has more than one header {name}. Send it once."
            raise ValueError(self._fault)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._cut:
            return
        super().on_body(body)
        if self.cycle is not None and self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > MAX_DISCARDED_BYTES:
                self._finish()

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "http", self._fault or msg))

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._timed_out, seconds)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self, seconds: float) -> None:
        """Close the connection, unless the server is the one that is late."""
        responding = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (self._in_headers and responding):
            self._wait(seconds)
        elif self._in_headers or (responding and not self.cycle.response_started):
            detail = f"The request was not complete within {seconds:g} seconds."
            self._refuse(Problem(408, "http", detail))
        else:  # no request has begun, or its response is under way
            self.transport.abort()

    def _refuse(self, problem: Problem) -> None:
        """Send a response outside the application, and close the connection."""
        body = json.dumps(problem.body("", "")).encode()
        retry = "" if problem.retry_after is None else f"retry-after: {problem.retry_after}\r\n"
        head = (
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n{retry}"
            f"{self._cors()}connection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[problem.status] + head.encode() + body)
        self._finish()

    def _cors(self) -> str:
        """Return the header with which a page of an allowed origin can read a refusal."""
        headers = dict(self.headers or ())
        origin = headers.get(b"origin", b"").decode("latin-1")
        if without_default_port(origin.lower()) not in self._limits.origins:
            return ""
        return f"access-control-allow-origin: {origin}\r\nvary: Origin\r\n"

    def _finish(self) -> None:
        """End the connection without reading more.

        Closing at once would reset the connection, and the client could lose the response.
        """
        self._cut = True
        self._stop_waiting()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.pause_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)


def _repeated(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return the name of a header that occurs twice and may not."""
    names = [name for name, _ in headers]
    return next((name.decode() for name in SINGLE_HEADERS if names.count(name) > 1), None)
