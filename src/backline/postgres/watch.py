"""A connection that closes itself when the answer to its statement will never arrive.

A network may accept the bytes of a statement and deliver nothing more. TCP does not notice that, if
a relay in between acknowledges the bytes. Long statements are legitimate, so no time limit applies
to them. After `PATIENCE` seconds without a byte, the server is asked over another connection
whether it still works on the statement.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow

T = TypeVar("T")

# Times in seconds. Without a byte for so long, the server is asked about the statement.
PATIENCE: Final = 10.0
# The longest silence where it cannot be asked: longer than Supabase lets a statement run.
LONGEST_SILENCE: Final = 150.0
# A cancelled statement may take this long to be cancelled on the server, and then to end.
CANCEL_SECONDS: Final = 1.0
# A statement of a cancelled task, such as its ROLLBACK, may take this long.
LEAVING_SECONDS: Final = 2.0

# How often psycopg looks for a closed socket.
_INTERVAL: Final = 0.1


class WatchedConnection(AsyncConnection[DictRow]):
    """A connection on which no statement waits for ever.

    Attributes:
        backend: the process id of its session on the server, or None if a pooler hides it.
        ask: returns whether the server works on the statement, or None if that is unknown.
        longest: seconds of silence that are accepted while the answer is unknown.
    """

    backend: int | None = None
    ask: Callable[[], Awaitable[bool | None]] | None = None
    longest: float = PATIENCE

    _moved = 0.0  # time of the last byte
    _silence = ""  # why the connection was closed
    _timer: asyncio.TimerHandle | None = None
    _watching: asyncio.Task[None] | None = None

    async def wait(
        self,
        gen: PQGen[T],
        interval: float = _INTERVAL,
        timeout: float | None = None,  # noqa: ASYNC109  the signature of psycopg
    ) -> T:
        """Run one exchange with the server: a statement, a part of a COPY, or its end.

        Raises:
            OperationalError: also if the answer will never arrive.
        """
        try:
            return await super().wait(self._watched(gen), interval, timeout)
        except psycopg.OperationalError as error:
            if self._silence:
                raise psycopg.OperationalError(self._silence) from error
            raise
        finally:
            self._set_timer(None)
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None

    def abort(self, reason: str) -> None:
        """Shut the socket, which ends the wait of the driver with an error."""
        self._silence = reason
        with (
            suppress(OSError, psycopg.Error),
            # The descriptor belongs to libpq; the address family of the copy has no effect here.
            socket.fromfd(self.fileno(), socket.AF_INET, socket.SOCK_STREAM) as shared,
        ):
            shared.shutdown(socket.SHUT_RDWR)

    def _watched(self, gen: PQGen[T]) -> PQGen[T]:
        """Yield what `gen` yields, and note when the socket was ready. Watch it once it waits."""
        try:
            wanted = next(gen)
            self._begin()
            while True:
                ready = yield wanted
                if ready:
                    self._moved = time.monotonic()
                wanted = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result

    def _begin(self) -> None:
        self._moved = time.monotonic()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            self._abort_after(LEAVING_SECONDS)
        else:
            self._set_timer(PATIENCE, self._suspect)

    def _suspect(self) -> None:
        quiet = time.monotonic() - self._moved
        if quiet < PATIENCE:
            self._set_timer(PATIENCE - quiet, self._suspect)
        elif (
            self.pgconn.transaction_status == TransactionStatus.ACTIVE
        ):  # else it may wait for ever
            self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        """Close the connection once the server has no more to say about its statement."""
        while True:
            quiet = time.monotonic() - self._moved
            if quiet >= PATIENCE and not await self._is_working():
                break
            await asyncio.sleep(PATIENCE)
        self.abort(f"it has not answered a statement for {time.monotonic() - self._moved:.0f} s")

    async def _is_working(self) -> bool:
        working = await self.ask() if self.ask is not None else None
        if working is None:
            return time.monotonic() - self._moved < self.longest
        return working

    async def _try_cancel(self, *, timeout: float = CANCEL_SECONDS) -> None:  # noqa: ASYNC109
        """Cancel the statement of a cancelled task. Closes the connection if that fails.

        psycopg calls this and then waits for the statement to end. Its own limits are 5 s each.
        """
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self.cancel_safe(timeout=min(timeout, CANCEL_SECONDS))
        except (psycopg.Error, TimeoutError):
            self.pgconn.finish()
        else:
            self._abort_after(CANCEL_SECONDS)

    def _abort_after(self, seconds: float) -> None:
        self._set_timer(seconds, self.abort, f"it has not answered for {seconds:.0f} s")

    def _set_timer(self, seconds: float | None, *call: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None else loop.call_later(seconds, *call)
