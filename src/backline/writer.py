"""Stores vectors by group commit: what arrives during one transaction goes into the next.

A lone edit is written at once; under load a transaction grows until the rows it locks would be held
for longer than `TARGET_SECONDS`, because a user's edit of one of them waits that long.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from backline.backlog import Unit
from backline.store import NO_USAGE, NewVector, Store, Usage
from backline.types import Collection, Outcome

TARGET_SECONDS: Final = 0.040
SMALLEST: Final = 16
LARGEST: Final = 4096
MOST_WAITING: Final = 2 * LARGEST
BUSY_AGAIN_SECONDS: Final = 0.1


_Outcomes: TypeAlias = list[tuple[str, Outcome]]
_Commit: TypeAlias = Callable[[], Awaitable[_Outcomes]]


class Write(NamedTuple):
    """One row to write, and the unit of its text where it has one."""

    row: NewVector
    unit: Unit | None = None


class Writer:
    """Lanes of writes. Start `run` as a task; `drain` waits until everything is stored.

    Two lanes, so that one transaction computes while the other waits for the disk.
    """

    LANES: Final = 2

    def __init__(
        self,
        store: Store,
        collection: Collection,
        worker: Callable[[], int],
        *,
        run: int | None,
        cache: bool,
        patiently: Callable[[_Commit], Awaitable[_Outcomes]],
        settled: Callable[[list[Write]], None],
    ) -> None:
        self._store = store
        self._collection = collection
        self._worker = worker
        self._run = run
        self._cache = cache
        self._patiently = patiently
        self._settled = settled
        self._queue: deque[Write] = deque()
        self._usage = NO_USAGE
        self._limit = 256
        self._open = 0  # rows in a transaction, or waiting to be brought again
        self._wake = asyncio.Condition()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._notifying: set[asyncio.Future[None]] = set()

    async def put(self, writes: Sequence[Write], usage: Usage = NO_USAGE) -> None:
        """Hand rows over; waits while too many already wait, so that memory stays flat."""
        await self._room.wait()
        self._queue.extend(writes)
        self._usage += usage
        self._idle.clear()
        if len(self._queue) > MOST_WAITING:
            self._room.clear()
        async with self._wake:
            self._wake.notify()

    async def drain(self) -> None:
        """Wait until everything that was handed over is stored."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as lanes:
            for _ in range(self.LANES):
                lanes.create_task(self._lane())

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
        outcomes = dict(await self._patiently(lambda: self._commit(writes, usage)))
        self._adapt(len(writes), time.monotonic() - began)
        busy = {key for key, outcome in outcomes.items() if outcome == "busy"}
        if busy:
            self._later([write for write in writes if write.row.key in busy])
            writes = [write for write in writes if write.row.key not in busy]
        self._open -= len(writes)
        self._settled(writes)
        if len(self._queue) <= MOST_WAITING:
            self._room.set()
        if not self._open and not self._queue:
            self._idle.set()

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
