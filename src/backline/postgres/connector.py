"""The seam to Postgres: fetch, execute, copy, transaction. Speaks SQL, knows no domain.

Driver errors become ours here and nowhere else, by SQLSTATE and never by reading prose.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, TypeAlias
from uuid import uuid4

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow, dict_row, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from backline.postgres.conninfo import address, pooling, require_readable
from backline.postgres.sqlstate import translate

Params: TypeAlias = Mapping[str, Any] | Sequence[Any]
Statement: TypeAlias = str | sql.SQL | sql.Composed

# A notification takes milliseconds; through a pooler that keeps no process it never comes.
HEARD_SECONDS: Final = 5.0

# More than the largest write of vectors; what the system does not allow it cuts down.
WRITE_BUFFER_BYTES: Final = 4 << 20

# select() knows no descriptor above 1,023, and is all that Windows has.
_Selector: Final = getattr(selectors, "PollSelector", selectors.SelectSelector)


async def keeps_sessions(connector: Connector, connection: AsyncConnection[DictRow]) -> bool:
    """Whether settings, locks and LISTEN of a connection outlive a transaction.

    A server names its process when a client connects. A pooler makes a name up, because it cannot
    know yet which process will serve the client. Whether it keeps that process for the client is
    tried: a notification reaches who listens only where it does. Where none comes in time, that is
    taken for a no, which costs polling in place of LISTEN and nothing else.
    """
    told = pooling(connector.conninfo)
    if told is not None:
        return told == "session"
    process = await _process_of(connection)
    if process == connection.info.backend_pid:
        return True
    other = await connector.dedicated()
    try:
        if await _process_of(other) == process:  # it serves both, so it is kept for neither
            return False
        return await _is_heard(connection, other)
    finally:
        await other.close()


async def _process_of(connection: AsyncConnection[DictRow]) -> int:
    row = await (await connection.execute("select pg_backend_pid() as pid")).fetchone()
    assert row is not None  # noqa: S101  a query without FROM has one row
    return int(row["pid"])


async def _is_heard(listener: AsyncConnection[DictRow], speaker: AsyncConnection[DictRow]) -> bool:
    """Whether a connection that does nothing is told what another one says."""
    channel = f"backline_probe_{uuid4().hex}"
    await listener.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
    await speaker.execute("select pg_notify(%s, '')", (channel,))
    heard = [n async for n in listener.notifies(timeout=HEARD_SECONDS, stop_after=1)]
    await listener.execute(sql.SQL("unlisten {}").format(sql.Identifier(channel)))
    return bool(heard)


async def _check(connection: AsyncConnection[DictRow]) -> None:
    """Find out whether an idle connection still is one, before it is lent.

    A server that went away has closed the socket, which is asked without a round trip; only where
    there is something to read is it found out what.
    """
    with _Selector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        if selector.select(0):
            await AsyncConnectionPool.check_connection(connection)


class Transaction:
    """One open transaction. Every statement in it commits or none does."""

    def __init__(self, connection: AsyncConnection[DictRow]) -> None:
        self._connection = connection

    async def fetch(self, statement: Statement, params: Params | None = None) -> list[DictRow]:
        cursor = await self._connection.execute(_query(statement), params)
        return await cursor.fetchall() if cursor.description else []

    async def fetch_tuples(
        self, statement: Statement, params: Params | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows as tuples, in binary: for the statements that carry every row of a table."""
        async with self._connection.cursor(binary=True, row_factory=tuple_row) as cursor:
            await cursor.execute(_query(statement), params)
            return await cursor.fetchall()

    async def execute(self, statement: Statement, params: Params | None = None) -> int:
        cursor = await self._connection.execute(_query(statement), params)
        return cursor.rowcount

    async def copy_rows(
        self, statement: Statement, rows: AsyncIterator[Sequence[Any]], types: Sequence[str]
    ) -> int:
        """COPY … FROM STDIN of Python values, row by row; returns how many."""
        written = 0
        async with self._connection.cursor().copy(_query(statement)) as copy:
            if types:
                copy.set_types(types)
            async for row in rows:
                await copy.write_row(row)
                written += 1
        return written


def _query(statement: Statement) -> LiteralString | sql.SQL | sql.Composed:
    # Every string comes from the package's own .sql files; identifiers are composed by psycopg.sql.
    return statement


class Connector:
    """A pool of connections to one database.

    Prepared statements stay off, so that a transaction pooler may hand every transaction to
    another server connection.
    """

    def __init__(self, conninfo: str, *, size: int = 6) -> None:
        self.conninfo = conninfo
        self.where = address(conninfo)
        self.has_sessions = pooling(conninfo) != "transaction"  # `open` finds out
        self._pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
            conninfo,
            min_size=0,
            max_size=size,
            open=False,
            timeout=10,
            check=_check,
            configure=self._configure,
            kwargs=self._options(autocommit=True),
        )

    @staticmethod
    def _options(*, autocommit: bool) -> dict[str, Any]:
        return {
            "row_factory": dict_row,
            "prepare_threshold": None,
            "autocommit": autocommit,
            "connect_timeout": 10,
            "application_name": "backline",
        }

    async def open(self) -> None:
        """Connect once, so that a wrong URL or password is found now and said plainly."""
        require_readable(self.conninfo)
        connection = await self.dedicated()
        try:
            with self._translated():
                self.has_sessions = await keeps_sessions(self, connection)
        finally:
            await connection.close()
        await self._pool.open()

    async def aclose(self) -> None:
        await self._pool.close()

    async def revive(self) -> None:
        """Connect now: the server is back, and the pool may be in a long pause between attempts."""
        await self._pool.resize(1, self._pool.max_size)
        await self._pool.resize(0, self._pool.max_size)

    async def dedicated(self) -> AsyncConnection[DictRow]:
        """A connection outside the pool, for LISTEN, for session locks and for slow DDL."""
        with self._translated():
            return await AsyncConnection.connect(self.conninfo, **self._options(autocommit=True))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction on a pooled connection."""
        with self._translated():
            async with self._pool.connection() as connection, connection.transaction():
                if not _reads_dates(connection):
                    await connection.execute(_ISO_DATES.format(sql.SQL("set local")))
                yield Transaction(connection)

    async def fetch(self, statement: Statement, params: Params | None = None) -> list[DictRow]:
        with self._translated():
            async with self._pool.connection() as connection:
                if _reads_dates(connection):
                    return await Transaction(connection).fetch(statement, params)
        async with self.transaction() as transaction:
            return await transaction.fetch(statement, params)

    async def fetch_one(self, statement: Statement, params: Params | None = None) -> DictRow:
        rows = await self.fetch(statement, params)
        return rows[0]

    async def fetch_on(
        self, session: AsyncConnection[DictRow], statement: Statement, params: Params | None = None
    ) -> DictRow:
        """The first row of a statement on a dedicated connection."""
        with self._translated():
            return (await Transaction(session).fetch(statement, params))[0]

    async def execute(self, statement: Statement, params: Params | None = None) -> int:
        with self._translated():
            async with self._pool.connection() as connection:
                return await Transaction(connection).execute(statement, params)

    async def _configure(self, connection: AsyncConnection[DictRow]) -> None:
        """Whatever the database's own style, timestamps come in the one that the driver reads."""
        _buffer_whole_writes(connection.fileno())
        if self.has_sessions:
            await connection.execute(_ISO_DATES.format(sql.SQL("set")))

    def _translated(self) -> _Translated:
        return _Translated(self.where)


def _buffer_whole_writes(descriptor: int) -> None:
    """Let the kernel take a write of some hundred vectors at once, as far as the system allows.

    A Unix socket takes 200 kB otherwise, and between two of these portions Postgres waits for the
    event loop, which embeds: a tenth of a backfill's time. A TCP socket's buffer grows by itself.
    """
    if not hasattr(socket, "AF_UNIX"):
        return
    with socket.socket(fileno=os.dup(descriptor)) as shared:
        if shared.family == socket.AF_UNIX:
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BUFFER_BYTES)


_ISO_DATES: Final = sql.SQL("{} datestyle to 'ISO, YMD'")


def _reads_dates(connection: AsyncConnection[DictRow]) -> bool:
    return (connection.info.parameter_status("DateStyle") or "ISO").startswith("ISO")


class _Translated:
    """Turns driver errors that leave the block into ours."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, psycopg.Error | PoolTimeout):
            raise translate(error, self._where) from error
