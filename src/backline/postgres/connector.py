"""The interface to Postgres: fetch, execute, copy and transactions. It knows no domain.

It translates driver errors, by their SQLSTATE and not by their text.
"""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, LiteralString, TypeAlias
from uuid import uuid4

import psycopg
from psycopg import AsyncConnection, IsolationLevel, generators, sql
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.rows import DictRow, dict_row, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from backline.postgres.conninfo import address, pooling, require_readable, timeouts
from backline.postgres.sqlstate import translate
from backline.postgres.watch import LONGEST_SILENCE, WatchedConnection

Params: TypeAlias = Mapping[str, Any] | Sequence[Any]
Statement: TypeAlias = str | sql.SQL | sql.Composed

# A notification arrives within milliseconds, and through a transaction pooler not at all.
NOTIFY_SECONDS: Final = 5.0

# Limits in seconds: of connecting, with the look-up of the address, which libpq does not limit; of
# asking about a statement; of a pool's attempts to connect, after which the next caller starts
# anew; and of closing the pool.
CONNECT_SECONDS: Final = 30.0
ASK_SECONDS: Final = 5.0
RECONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0

# More than the largest write of vectors. The kernel reduces it to the system's limit.
WRITE_BUFFER_BYTES: Final = 4 << 20

# Failures reach the caller as errors. Without a handler, Python prints the driver's warnings to
# standard error.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

# select() fails for descriptors above 1,023. Windows has no other selector.
_Selector: Final = getattr(selectors, "PollSelector", selectors.SelectSelector)


async def keeps_sessions(connector: Connector, connection: AsyncConnection[DictRow]) -> bool:
    """Return whether session state (SET, advisory locks, LISTEN) survives a transaction.

    A direct connection reports the PID of its backend. A pooler reports an invented one, and then
    a notification decides: it arrives only if the pooler keeps a backend for each client. A false
    no costs polling instead of LISTEN.
    """
    mode = pooling(connector.conninfo)
    if mode is not None:
        return mode == "session"
    backend = await _backend_of(connection)
    if backend == connection.info.backend_pid:
        return True
    other = await connector.connect()
    try:
        if await _backend_of(other) == backend:  # one backend serves both connections
            return False
        return await _is_notified(connection, other)
    finally:
        await other.close()


async def _backend_of(connection: AsyncConnection[DictRow]) -> int:
    row = await (await connection.execute("select pg_backend_pid() as pid")).fetchone()
    assert row is not None  # noqa: S101  a query without FROM has one row
    return int(row["pid"])


async def _is_notified(
    listener: AsyncConnection[DictRow], sender: AsyncConnection[DictRow]
) -> bool:
    """Return whether a notification from `sender` reaches `listener` while that is idle."""
    channel = f"backline_probe_{uuid4().hex}"
    await listener.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
    await sender.execute("select pg_notify(%s, '')", (channel,))
    notices = [n async for n in listener.notifies(timeout=NOTIFY_SECONDS, stop_after=1)]
    await listener.execute(sql.SQL("unlisten {}").format(sql.Identifier(channel)))
    return bool(notices)


async def _check(connection: AsyncConnection[DictRow]) -> None:
    """Check that an idle connection is still open before the pool lends it.

    A server that stopped has closed the socket, which makes it readable. Only a readable socket
    costs a round trip.
    """
    with _Selector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        if selector.select(0):
            await AsyncConnectionPool.check_connection(connection)


class Transaction:
    """One open transaction: all of its statements commit, or none does."""

    def __init__(self, connection: WatchedConnection) -> None:
        self._connection = connection

    @property
    def backend(self) -> int | None:
        """The process id of its session on the server, or None if a pooler hides it."""
        return self._connection.backend

    async def fetch(self, statement: Statement, params: Params | None = None) -> list[DictRow]:
        cursor = await self._connection.execute(_query(statement), params)
        return await cursor.fetchall() if cursor.description else []

    async def fetch_tuples(
        self, statement: Statement, params: Params | None = None
    ) -> list[tuple[Any, ...]]:
        """Return rows as tuples in the binary format, for statements that read whole tables."""
        async with self._connection.cursor(binary=True, row_factory=tuple_row) as cursor:
            await cursor.execute(_query(statement), params)
            return await cursor.fetchall()

    async def execute(self, statement: Statement, params: Params | None = None) -> int:
        cursor = await self._connection.execute(_query(statement), params)
        return cursor.rowcount

    async def copy_rows(
        self, statement: Statement, rows: AsyncIterator[Sequence[Any]], types: Sequence[str]
    ) -> int:
        """Run COPY … FROM STDIN with rows of Python values; return their number."""
        written = 0
        async with self._connection.cursor().copy(_query(statement)) as copy:
            if types:
                copy.set_types(types)
            async for row in rows:
                await copy.write_row(row)
                written += 1
        return written


def _query(statement: Statement) -> LiteralString | sql.SQL | sql.Composed:
    # Every string comes from the package's .sql files. psycopg.sql composes identifiers.
    return statement


class Connector:
    """A pool of connections to one database.

    Prepared statements are disabled, since a transaction pooler may run each transaction on
    another backend.
    """

    def __init__(self, conninfo: str, *, size: int = 6) -> None:
        self.conninfo = conninfo
        self.where = address(conninfo)
        self.has_sessions = pooling(conninfo) != "transaction"  # `open` verifies it
        self._options: dict[str, Any] = {
            "row_factory": dict_row,
            "prepare_threshold": None,
            "autocommit": True,
            "application_name": "backline",
            **timeouts(conninfo),
        }
        self._pool: AsyncConnectionPool[WatchedConnection] = AsyncConnectionPool(
            conninfo,
            connection_class=WatchedConnection,
            min_size=0,
            max_size=size,
            open=False,
            timeout=10,
            reconnect_timeout=RECONNECT_SECONDS,
            check=_check,
            configure=self._configure,
            kwargs=self._options,
        )

    async def open(self) -> None:
        """Connect once, so that a wrong URL or password fails here, and open the pool.

        Raises:
            ConfigurationError: the connection string is malformed.
            DatabaseUnavailableError: the server cannot be reached, or refuses the login.

        """
        require_readable(self.conninfo)
        connection = await self.connect()
        try:
            with self._translated():
                self.has_sessions = await keeps_sessions(self, connection)
        finally:
            await connection.close()
        await self._pool.open()

    async def aclose(self) -> None:
        await self._pool.close(CLOSE_SECONDS)

    async def revive(self) -> None:
        """Connect now. After an outage the pool pauses for long between its attempts."""
        await self._pool.resize(1, self._pool.max_size)
        await self._pool.resize(0, self._pool.max_size)

    async def dedicated(self) -> WatchedConnection:
        """Open a connection outside the pool, for LISTEN, session locks and slow DDL."""
        connection = await self.connect()
        try:
            with self._translated():
                await self._configure(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def connect(self) -> WatchedConnection:
        """Open a connection outside the pool, without settings of a session."""
        with self._translated():
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await WatchedConnection.connect(self.conninfo, **self._options)
            except TimeoutError:
                raise psycopg.OperationalError(
                    f"no connection within {CONNECT_SECONDS:.0f} s"
                ) from None

    async def is_working(self, backend: int) -> bool | None:
        """Return whether the server works on a statement of a backend, over a new connection.

        A backend that waits for its client while the client waits for it does not work. None means
        that the server lives but cannot be asked, because it accepts no more connections.
        """
        try:
            async with asyncio.timeout(ASK_SECONDS):
                connection = await WatchedConnection.connect(self.conninfo, **self._options)
                async with connection:
                    return bool(await (await connection.execute(_WORKING, [backend])).fetchone())
        except TimeoutError:
            return False
        except psycopg.Error as error:
            return None if "FATAL" in str(error) else False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Run the block in a transaction on a pooled connection."""
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
        self, session: WatchedConnection, statement: Statement, params: Params | None = None
    ) -> DictRow:
        """Return the first row of a statement on a dedicated connection."""
        with self._translated():
            return (await Transaction(session).fetch(statement, params))[0]

    async def fetch_text_on(self, session: WatchedConnection, statement: str) -> str:
        """Return the only value of a statement on a dedicated connection, as text.

        Takes half the processor time of `fetch_on`, which prepares a cursor.
        """
        with self._translated():
            async with session.lock:
                session.pgconn.send_query(statement.encode())
                [result] = await session.wait(generators.execute(session.pgconn))
            if result.status != ExecStatus.TUPLES_OK:
                raise error_from_result(result)
            return (result.get_value(0, 0) or b"").decode()

    async def execute(self, statement: Statement, params: Params | None = None) -> int:
        with self._translated():
            async with self._pool.connection() as connection:
                return await Transaction(connection).execute(statement, params)

    async def _configure(self, connection: WatchedConnection) -> None:
        """Set what a session needs, and how to ask about its statements."""
        _buffer_whole_writes(connection.fileno())
        # A worker's serializable transaction could make those of the application fail.
        await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
        if self.has_sessions:
            row = await (await connection.execute(_SESSION)).fetchone()
            assert row is not None  # noqa: S101  a query without FROM has one row
            connection.backend = row["pid"]
            connection.ask = partial(self.is_working, row["pid"])
        connection.longest = LONGEST_SILENCE

    def _translated(self) -> _Translated:
        return _Translated(self.where)


def _buffer_whole_writes(descriptor: int) -> None:
    """Enlarge the send buffer of a Unix socket, so that one write holds hundreds of vectors.

    Its default is 200 kB. Between two such parts Postgres waits for the event loop, which is busy
    embedding: that took a tenth of a backfill's time. TCP sizes its buffer automatically.
    """
    if not hasattr(socket, "AF_UNIX"):
        return
    with socket.socket(fileno=os.dup(descriptor)) as shared:
        if shared.family == socket.AF_UNIX:
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BUFFER_BYTES)


_ISO_DATES: Final = sql.SQL("{} datestyle to 'ISO, YMD'")

# The date style is the one that the driver reads; a database may have another default. The server
# ends a session whose client has gone, and with it the locks, within about a minute: an open
# transaction after 60 s, an idle session by keepalives. A lock that another session holds for 10 s
# is contention. Stricter limits of the database stay.
_SESSION: Final = """
select pg_backend_pid() as pid, set_config('datestyle', 'ISO, YMD', false),
  set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
  set_config('tcp_keepalives_count', '3', false),
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('tcp_user_timeout', '25000', false),
  set_config('lock_timeout', coalesce(nullif(current_setting('lock_timeout'), '0'), '10s'), false),
  set_config('idle_in_transaction_session_timeout',
    coalesce(nullif(current_setting('idle_in_transaction_session_timeout'), '0'), '60s'), false)
"""

_WORKING: Final = """
select 1 from pg_stat_activity
where pid = %s and state = 'active' and wait_event_type is distinct from 'Client'
"""


def _reads_dates(connection: AsyncConnection[DictRow]) -> bool:
    return (connection.info.parameter_status("DateStyle") or "ISO").startswith("ISO")


class _Translated:
    """Translates driver errors that leave the block into Backline's."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, psycopg.Error | PoolTimeout):
            raise translate(error, self._where) from error
