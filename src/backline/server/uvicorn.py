"""Runs the application on uvicorn."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from backline import errors
from backline.config import Settings
from backline.server.http_protocol import ConnectionLimits, HttpProtocol

MAX_FRAME_BYTES: Final = 256 * 1024
# Time for requests in flight to finish after the server is stopped.
GRACEFUL_SECONDS: Final = 10
OPEN_FILES: Final = 8192
# Files that connections leave for the database, logs and models.
RESERVED_FILES: Final = 128
ABORT_SECONDS: Final = 5.0


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with a time limit on closing.

    `transport.close()` sends the buffered bytes first. A client that never reads would keep the
    connection and its buffer open without limit.
    """

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(ABORT_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(ABORT_SECONDS, self.transport.abort)


class Server(uvicorn.Server):
    """uvicorn's server without signal handlers, which are left to the caller."""

    ready: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start uvicorn, then call `ready`."""
        await super().startup(sockets)
        self.ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self, _why: str = "stopped") -> None:
        """Accept no new requests, finish those in flight, and exit. Idempotent."""
        self.should_exit = True


def make_server(app: FastAPI, settings: Settings) -> Server:
    protocol = partial(HttpProtocol, limits=connection_limits(settings))
    return Server(
        uvicorn.Config(
            app, http=cast("type[asyncio.Protocol]", protocol), ws=WebSocketProtocol,
            lifespan="on", log_config=None, access_log=False,
            server_header=False, date_header=True, timeout_keep_alive=settings.keep_alive,
            timeout_graceful_shutdown=GRACEFUL_SECONDS, ws_max_size=MAX_FRAME_BYTES,
            # Compression would hold one compressor a client, and frames are too small to gain.
            ws_per_message_deflate=False,
        )
    )  # fmt: skip


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return the limits of the settings, with no more connections than files may be open."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    connections = settings.max_connections
    if files != resource.RLIM_INFINITY:
        connections = min(connections, max(1, files - RESERVED_FILES))
    return ConnectionLimits(
        connections,
        settings.header_timeout,
        settings.body_timeout,
        frozenset(settings.cors_origins),
    )


def allow_many_sockets() -> None:
    """Raise the limit on open files: every client needs one, and the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        ConfigurationError: the port is in use, or the address does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is given. Nagle's algorithm would delay the
    # second part of a response by 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host.strip("[]"), port))
    except OSError as error:
        bound.close()
        raise errors.ConfigurationError(
            f"The server cannot listen on {host}:{port}: {error.strerror or error}. Choose another "
            "port with --port, or 0 for a free one."
        ) from None
    bound.set_inheritable(False)
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the URL under which a browser on this machine reaches the socket."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"
