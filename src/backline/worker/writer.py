"""Stores vectors by group commit: what arrives during one transaction goes into the next.

A lone edit is written at once; under load a transaction grows until the rows it locks would be held
for longer than `TARGET_SECONDS`, because a user's edit of one of them waits that long.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar

from backline import errors
from backline.store import NO_USAGE, JobStore, NewVector, Usage
from backline.types import Collection, FailedAttempt, Outcome
from backline.worker import batching
from backline.worker.backlog import PendingText
from backline.worker.tasks import end_tasks

TARGET_SECONDS: Final = 0.040
SMALLEST: Final = 16
LARGEST: Final = 4096
MOST_WAITING: Final = 2 * LARGEST
BUSY_AGAIN_SECONDS: Final = 0.1
# That many rows refused one by one, and none stored in between, is not the rows' fault.
REFUSALS_BEFORE_GIVING_UP: Final = 25

T = TypeVar("T")

_Outcomes: TypeAlias = list[tuple[str, Outcome]]


class Write(NamedTuple):
    """One row to write, or to report as failed, and the unit of its text where it has one."""

    row: NewVector
    unit: PendingText | None = None
    failure: FailedAttempt | None = None


class Patience(Protocol):
    """Repeats a verb until the database answers."""

    async def __call__(self, verb: Callable[[], Awaitable[T]]) -> T: ...


class Writer:
    """Lanes of writes. Start `run` as a task; `drain` waits until everything is stored.

    Two lanes, so that one transaction computes while the other waits for the disk.
    """

    LANES: Final = 2

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        worker: Callable[[], int],
        *,
        run: int | None,
        cache: bool,
        patiently: Patience,
        settled: Callable[[list[Write]], None],
        busy: Callable[[], None],
    ) -> None:
        self._store = store
        self._collection = collection
        self._worker = worker
        self._run = run
        self._cache = cache
        self._patiently = patiently
        self._settled = settled
        self._all_busy = busy
        self._queue: deque[Write] = deque()
        self._usage = NO_USAGE
        self._limit = 256
        self._refusals = 0
        self._open = 0  # rows in a transaction, or waiting to be brought again
        self._wake = asyncio.Condition()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._notifying: set[asyncio.Future[None]] = set()

    async def put(self, writes: Sequence[Write], usage: Usage = NO_USAGE) -> None:
        """Hand rows over; waits while too many already wait, so that memory stays flat."""
        self._usage += usage
        if not writes:  # what was used goes with the next write
            return
        await self._room.wait()
        self._queue.extend(writes)
        self._idle.clear()
        if len(self._queue) > MOST_WAITING:
            self._room.clear()
        async with self._wake:
            self._wake.notify()

    async def drain(self) -> None:
        """Wait until everything that was handed over is stored."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled, or until one of the lanes fails."""
        lanes = [asyncio.create_task(self._lane()) for _ in range(self.LANES)]
        try:
            await asyncio.wait(lanes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failures = await end_tasks(*lanes)
        raise failures[0]

    async def _lane(self) -> None:
        while True:
            async with self._wake:
                await self._wake.wait_for(lambda: bool(self._queue))
            await self._write_some()

    async def _write_some(self) -> None:
        writes = [self._queue.popleft() for _ in range(min(self._limit, len(self._queue)))]
        usage, self._usage = self._usage, NO_USAGE
        self._open += len(writes)
        began = time.monotonic()
        again = await self._carry_out(writes, usage)
        self._adapt(len(writes), time.monotonic() - began)
        if again:
            self._later(again)
            keys = {write.row.key for write in again}
            writes = [write for write in writes if write.row.key not in keys]
        if writes:
            self._open -= len(writes)
            self._settled(writes)
        else:
            self._all_busy()
        if len(self._queue) <= MOST_WAITING:
            self._room.set()
        if not self._open and not self._queue:
            self._idle.set()

    async def _carry_out(self, writes: Sequence[Write], usage: Usage) -> list[Write]:
        """Store what there is to store and report what failed; returns what to bring again."""
        failed = [write for write in writes if write.failure is not None]
        stored = [write for write in writes if write.failure is None] if failed else writes
        again = await self._store_rows(stored, usage)
        return again + await self._report(failed) if failed else again

    async def _store_rows(self, writes: Sequence[Write], usage: Usage) -> list[Write]:
        if not writes:
            return []
        try:
            outcomes = await self._patiently(lambda: self._commit(writes, usage))
        except (errors.RowRefusedError, errors.StatementTimeoutError) as error:
            return await self._in_halves(writes, usage, error)
        self._refusals = 0
        busy = {key for key, outcome in outcomes if outcome == "busy"}
        return [write for write in writes if write.row.key in busy] if busy else []

    async def _in_halves(
        self, writes: Sequence[Write], usage: Usage, error: errors.DatabaseError
    ) -> list[Write]:
        """One row spoils the whole transaction, or it takes too long: store the rows in halves."""
        if len(writes) == 1:
            return [self._refused(writes[0], error)]
        left, right = batching.bisect(range(len(writes)))
        again = await self._store_rows([writes[i] for i in left], usage)
        return again + await self._store_rows([writes[i] for i in right], NO_USAGE)

    def _refused(self, write: Write, error: errors.DatabaseError) -> Write:
        """The same row as a failed one: Postgres will not store it."""
        self._refusals += 1
        if (
            isinstance(error, errors.StatementTimeoutError)
            or write.row.content_hash is None
            or self._refusals >= REFUSALS_BEFORE_GIVING_UP
        ):
            raise error
        failure = FailedAttempt(
            write.row.key, write.row.content_hash, "refused", str(error), None, write.row.lease
        )
        return write._replace(failure=failure)

    async def _report(self, failed: Sequence[Write]) -> list[Write]:
        attempts = [write.failure for write in failed if write.failure is not None]
        busy = await self._patiently(
            lambda: self._store.fail(self._collection, self._worker(), self._run, attempts)
        )
        return [write for write in failed if write.row.key in busy]

    async def _commit(self, writes: Sequence[Write], usage: Usage) -> _Outcomes:
        return await self._store.complete(
            self._collection,
            self._worker(),
            self._run,
            [write.row for write in writes],
            cache=self._cache,
            usage=usage,
        )

    def _adapt(self, written: int, seconds: float) -> None:
        if seconds > 1.5 * TARGET_SECONDS:
            self._limit = max(SMALLEST, self._limit * 3 // 4)
        elif seconds < TARGET_SECONDS and written == self._limit:
            self._limit = min(LARGEST, self._limit * 5 // 4)

    def _later(self, writes: list[Write]) -> None:
        """Somebody is editing these rows: bring them again when they may have finished."""
        asyncio.get_running_loop().call_later(BUSY_AGAIN_SECONDS, self._again, writes)

    def _again(self, writes: list[Write]) -> None:
        self._open -= len(writes)
        self._queue.extend(writes)
        task = asyncio.ensure_future(self._notify())
        self._notifying.add(task)
        task.add_done_callback(self._notifying.discard)

    async def _notify(self) -> None:
        async with self._wake:
            self._wake.notify()
