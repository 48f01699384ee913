"""A proxy in front of Postgres that cuts connections after a number of bytes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo


@dataclass
class FaultProxy:
    """Forwards connections from the socket in `url` to that of the server.

    Attributes:
        after: bytes to the server after which a connection is cut.
        cuts: how many of the next connections are cut.
    """

    url: str
    server: str
    after: int = 0
    cuts: int = 0
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
        from_server, to_server = await asyncio.open_unix_connection(self.server)
        limit = self.after if self.cuts > 0 else None
        self.cuts -= limit is not None
        pumps = [
            asyncio.create_task(_pump(from_client, to_server, limit)),
            asyncio.create_task(_pump(from_server, to_client, None)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            to_client.transport.abort()
            to_server.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None
) -> None:
    """Copy bytes until the end of the stream, or until `limit` of them have passed."""
    passed = 0
    with suppress(ConnectionError):
        while chunk := await reader.read(4096):
            if limit is not None and passed + len(chunk) > limit:
                writer.write(chunk[: limit - passed])
                await writer.drain()
                return
            passed += len(chunk)
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def fault_proxy(url: str, *, port: int = 5432) -> AsyncIterator[FaultProxy]:
    """Listen on a Unix socket of that port, in front of the server of `url`."""
    parts = conninfo_to_dict(url)
    with tempfile.TemporaryDirectory(prefix="proxy-") as folder:
        proxy = FaultProxy(
            make_conninfo(url, host=folder, port=port), f"{parts['host']}/.s.PGSQL.5432"
        )
        listener = await asyncio.start_unix_server(proxy.accept, Path(folder) / f".s.PGSQL.{port}")
        try:
            yield proxy
        finally:
            listener.close()
            proxy.cut_all()
            await asyncio.gather(*proxy.connections, return_exceptions=True)
