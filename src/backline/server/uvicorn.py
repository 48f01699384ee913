"""Runs the application on uvicorn, until it is told to stop."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from backline import errors
from backline.server.protocol import CuttingProtocol

KEEP_ALIVE_SECONDS = 30
LARGEST_FRAME = 256 * 1024
# Requests that are under way when the server is stopped have this long.
GRACEFUL_SECONDS = 10
FILES = 8192


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to whoever runs it."""

    ready: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; then `ready` is called, for the server answers."""
        await super().startup(sockets)
        self.ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self, _why: str = "stopped") -> None:
        """Take no new requests, finish those under way, and end. Idempotent."""
        self.should_exit = True


def make_server(app: FastAPI) -> Server:
    return Server(
        uvicorn.Config(
            app, ws=CuttingProtocol, lifespan="on", log_config=None, access_log=False,
            server_header=False, date_header=True, timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACEFUL_SECONDS, ws_max_size=LARGEST_FRAME,
            # 500 clients would keep 500 compressors; frames are small, and cost less as they are.
            ws_per_message_deflate=False,
        )
    )  # fmt: skip


def allow_many_sockets() -> None:
    """Every client is an open file, and the usual limit of 1,024 was made for other programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigurationError: the port is taken, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where the protocol is named does asyncio turn Nagle's algorithm off, which holds the
    # second part of an answer back for 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host.strip("[]"), port))
    except OSError as error:
        bound.close()
        raise errors.ConfigurationError(
            f"The server cannot listen on {host}:{port}: {error.strerror or error}. Choose another "
            "port with --port, or 0 for any that is free."
        ) from None
    bound.set_inheritable(False)
    return bound


def address_of(bound: socket.socket) -> str:
    """The address that a browser takes."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"
