"""A relay in front of Postgres that can cut connections after so many bytes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo


@dataclass
class Relay:
    """Cuts the next `cuts` connections once `after` bytes have gone to the server."""

    url: str
    after: int = 0
    cuts: int = 0
    made: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def close_session(self) -> None:
        """Cut every connection that there is."""
        for task in self.tasks:
            task.cancel()


@asynccontextmanager
async def relay(url: str, *, port: int = 5432) -> AsyncIterator[Relay]:
    """A Unix socket of that port that leads to the server of `url`."""
    parts = conninfo_to_dict(url)
    server = f"{parts['host']}/.s.PGSQL.5432"
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        made = Relay(make_conninfo(url, host=folder, port=port))

        async def connected(
            from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
        ) -> None:
            from_server, to_server = await asyncio.open_unix_connection(server)
            made.made += 1
            limit = made.after if made.cuts > 0 else None
            made.cuts -= limit is not None
            pumps = [
                asyncio.create_task(pump(from_client, to_server, limit)),
                asyncio.create_task(pump(from_server, to_client, None)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in pumps:
                    each.cancel()
                to_client.transport.abort()
                to_server.transport.abort()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(connected(reader, writer))
            made.tasks.add(task)
            task.add_done_callback(made.tasks.discard)

        listener = await asyncio.start_unix_server(accept, Path(folder) / f".s.PGSQL.{port}")
        try:
            yield made
        finally:
            listener.close()
            for task in made.tasks:
                task.cancel()
            await asyncio.gather(*made.tasks, return_exceptions=True)


async def pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None
) -> None:
    """Pass bytes on until the end, or until `limit` of them have passed."""
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
