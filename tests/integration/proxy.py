"""Relays in front of a server: they cut connections after some bytes, or stall them for ever.

A stalled connection stays open. The relay accepts its bytes, as a half-open network does, and
delivers nothing.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from psycopg.conninfo import conninfo_to_dict, make_conninfo

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Stall:
    """Stalls the next `times` connections whose client sends `needle`.

    Attributes:
        delivered: the server receives the needle, and only its response is lost.
        everywhere: every connection stalls, and every new one.
    """

    needle: bytes
    times: int = 1
    delivered: bool = False
    everywhere: bool = False


@dataclass
class FaultProxy:
    """Forwards connections from the address in `url` to the server.

    Attributes:
        connect: opens a connection to the server.
        after: bytes to the server after which a connection is cut.
        cuts: how many of the next connections are cut.
        stalled: whether every connection stalls.
        stall: which connections stall.
    """

    url: str
    connect: Callable[[], Awaitable[Streams]]
    after: int = 0
    cuts: int = 0
    stalled: bool = False
    stall: Stall | None = None
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def cut_all(self) -> None:
        """Cut every open connection."""
        for connection in self.connections:
            connection.cancel()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a new connection in a task."""
        connection = asyncio.ensure_future(self._forward(reader, writer))
        self.connections.add(connection)
        connection.add_done_callback(self.connections.discard)

    async def _forward(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        from_server, to_server = await self.connect()
        limit = self.after if self.cuts > 0 else None
        self.cuts -= limit is not None
        relay = _Relay(self, limit)
        to_the_server = asyncio.create_task(relay.pump(from_client, to_server, sends=True))
        to_the_client = asyncio.create_task(relay.pump(from_server, to_client, sends=False))
        pumps = [to_the_server, to_the_client]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if relay.stalled:  # the client does not learn that the server has closed the connection
                await asyncio.wait([to_the_server])
        finally:
            for pump in pumps:
                pump.cancel()
            to_client.transport.abort()
            to_server.transport.abort()


class _Relay:
    """One connection; it is cut after `limit` bytes to the server."""

    def __init__(self, proxy: FaultProxy, limit: int | None) -> None:
        self._proxy = proxy
        self._limit = limit
        self._stalled = False

    @property
    def stalled(self) -> bool:
        return self._stalled or self._proxy.stalled

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, sends: bool
    ) -> None:
        """Copy bytes until the end of the stream. Drop them while the connection is stalled."""
        limit, passed = self._limit if sends else None, 0
        with suppress(ConnectionError):
            while chunk := await reader.read(4096):
                delivered = sends and self._stalls(chunk)
                if self.stalled and not delivered:
                    continue
                if limit is not None and passed + len(chunk) > limit:
                    writer.write(chunk[: limit - passed])
                    await writer.drain()
                    return
                passed += len(chunk)
                writer.write(chunk)
                await writer.drain()

    def _stalls(self, chunk: bytes) -> bool:
        """Stall if the chunk asks for it. Returns whether it is delivered nevertheless."""
        stall = self._proxy.stall
        if stall is None or stall.times == 0 or stall.needle not in chunk or self.stalled:
            return False
        stall.times -= 1
        self._stalled = True
        self._proxy.stalled = stall.everywhere
        return stall.delivered


@asynccontextmanager
async def fault_proxy(url: str, *, port: int = 5432) -> AsyncIterator[FaultProxy]:
    """Listen on a Unix socket of that port, in front of the server of `url`."""
    server = f"{conninfo_to_dict(url)['host']}/.s.PGSQL.5432"
    with tempfile.TemporaryDirectory(prefix="proxy-") as folder:
        proxy = FaultProxy(
            make_conninfo(url, host=folder, port=port),
            lambda: asyncio.open_unix_connection(server),
        )
        listener = await asyncio.start_unix_server(proxy.accept, Path(folder) / f".s.PGSQL.{port}")
        async with _listening(proxy, listener):
            yield proxy


@asynccontextmanager
async def tcp_relay(host: str, port: int) -> AsyncIterator[FaultProxy]:
    """Listen on a free port of this machine, in front of an HTTP server."""
    proxy = FaultProxy("", lambda: asyncio.open_connection(host, port))
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with _listening(proxy, listener):
        yield proxy


@asynccontextmanager
async def _listening(proxy: FaultProxy, listener: asyncio.Server) -> AsyncIterator[None]:
    try:
        yield
    finally:
        listener.close()
        proxy.cut_all()
        await asyncio.gather(*proxy.connections, return_exceptions=True)
