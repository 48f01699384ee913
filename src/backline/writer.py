"""Stores vectors by group commit: what arrives during one transaction goes into the next.

A lone edit is written at once; under load a transaction grows until the rows it locks would be held
for longer than `TARGET_SECONDS`, because a user's edit of one of them waits that long.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from backline.store import NO_USAGE, Store, Usage
from backline.types import Collection, Outcome

TARGET_SECONDS: Final = 0.040
SMALLEST: Final = 16
LARGEST: Final = 4096
BUSY_AGAIN_SECONDS: Final = 0.1


_Outcomes: TypeAlias = list[tuple[str, Outcome]]
_Commit: TypeAlias = Callable[[], Awaitable[_Outcomes]]


@dataclass(slots=True, eq=False)
class Write:
    """One row to write: its encoded tuple, and what to call with its outcome (None: written)."""

    key: str
    encoded: bytes
    settled: Callable[[Outcome | None], None]


class Writer:
    """One lane of writes. Start `run` as a task; `drain` waits until everything is stored."""

    def __init__(
        self,
        store: Store,
        collection: Collection,
        worker: Callable[[], int],
        *,
        run: int | None,
        cache: bool,
        patiently: Callable[[_Commit], Awaitable[_Outcomes]],
    ) -> None:
        self._store = store
        self._collection = collection
        self._worker = worker
        self._run = run
        self._cache = cache
        self._patiently = patiently
        self._queue: deque[Write] = deque()
        self._usage = NO_USAGE
        self._limit = 256
        self._busy = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def idle(self) -> bool:
        return self._idle.is_set()

    async def put(self, writes: Sequence[Write], usage: Usage = NO_USAGE) -> None:
        """Hand rows over; waits while too many already wait, so that memory stays flat."""
        await self._room.wait()
        self._queue.extend(writes)
        self._usage += usage
        self._idle.clear()
        self._wake.set()
        if len(self._queue) > 2 * LARGEST:
            self._room.clear()

    async def drain(self) -> None:
        """Wait until everything that was handed over is stored."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._write_some()
            if not self._busy:
                self._idle.set()

    async def _write_some(self) -> None:
        writes = [self._queue.popleft() for _ in range(min(self._limit, len(self._queue)))]
        usage, self._usage = self._usage, NO_USAGE
        began = time.monotonic()
        outcomes = dict(await self._patiently(lambda: self._commit(writes, usage)))
        self._adapt(len(writes), time.monotonic() - began)
        self._room.set()
        for write in writes:
            outcome = outcomes.get(write.key)
            if outcome == "busy":
                self._later(write)
            else:
                write.settled(outcome)

    async def _commit(self, writes: Sequence[Write], usage: Usage) -> list[tuple[str, Outcome]]:
        return await self._store.complete(
            self._collection,
            self._worker(),
            self._run,
            [write.encoded for write in writes],
            cache=self._cache,
            usage=usage,
        )

    def _adapt(self, written: int, seconds: float) -> None:
        if seconds > 1.5 * TARGET_SECONDS:
            self._limit = max(SMALLEST, self._limit // 2)
        elif seconds < 0.75 * TARGET_SECONDS and written == self._limit:
            self._limit = min(LARGEST, self._limit * 5 // 4)

    def _later(self, write: Write) -> None:
        """Somebody is editing the row: bring it again when they may have finished."""
        self._busy += 1
        asyncio.get_running_loop().call_later(BUSY_AGAIN_SECONDS, self._again, write)

    def _again(self, write: Write) -> None:
        self._busy -= 1
        self._queue.append(write)
        self._wake.set()
