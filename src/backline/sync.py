"""Embed edits as they arrive, by polling the change log."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Final

from backline import errors
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.polling import poll
from backline.postgres.store import Store
from backline.problems import watch_problems
from backline.types import Collection
from backline.worker.batch_handler import EmbedBatches
from backline.worker.options import WorkerOptions
from backline.worker.tasks import beside
from backline.worker.worker import Worker

# Intervals between two polls of the change log: soon after a change, and where nothing happens.
BUSY_SECONDS: Final = 0.01
IDLE_SECONDS: Final = 0.2
# Time since the last change after which the longer interval is used.
BUSY_FOR_SECONDS: Final = 2.0
RECONNECT_SECONDS: Final = 1.0
# Interval between two claims without a change.
CLAIM_SECONDS: Final = 60.0


class ChangePoller:
    """Polls for changes and jobs of all collections that a process follows, in one statement.

    While nothing is committed in the database, the snapshot stays the same. Then a poll reads the
    snapshot only, which takes a third of the processor time.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._nudges: dict[int, Callable[[], None]] = {}
        self._due: dict[int, float] = {}  # when jobs that wait will be due
        self._snapshot = ""  # of the last poll for changes
        self._unchanged = False  # nothing was committed between the last two, and nothing was due
        self._changed_at = float("-inf")

    @contextmanager
    def following(self, collection: int, nudge: Callable[[], None]) -> Iterator[None]:
        """Call `nudge` when a collection has work, until the end of the block."""
        self._nudges[collection] = nudge
        self._unchanged = False
        try:
            yield
        finally:
            if self._nudges.get(collection) is nudge:
                del self._nudges[collection]

    async def run(self) -> None:
        """Poll until cancelled. During an outage of the database, workers retry their own calls."""
        while True:
            try:
                async with self._store.snapshots() as snapshot:
                    self._unchanged = False  # the snapshots of a restored database differ
                    while True:
                        await asyncio.sleep(self._pause())
                        await self._poll(snapshot)
            except errors.DatabaseError:
                await asyncio.sleep(RECONNECT_SECONDS)

    def _pause(self) -> float:
        busy = time.monotonic() - self._changed_at < BUSY_FOR_SECONDS
        return BUSY_SECONDS if busy else IDLE_SECONDS

    async def _poll(self, snapshot: Callable[[], Awaitable[str]]) -> None:
        now = time.monotonic()
        for collection in [each for each, due in self._due.items() if due <= now]:
            del self._due[collection]
            self._nudge(collection)
        if self._nudges and not (self._unchanged and await snapshot() == self._snapshot):
            await self._look()

    async def _look(self) -> None:
        """Nudge the workers that have work now, and note when others will have some."""
        collections = [*self._nudges]
        snapshot, seconds = await self._store.work_due(collections)
        self._unchanged = snapshot == self._snapshot and 0 not in seconds
        self._snapshot = snapshot
        now, before = time.monotonic(), self._due
        self._due = {}
        for collection, due_in in zip(collections, seconds, strict=True):
            if due_in == 0:
                self._changed_at = now
                self._nudge(collection)
            elif due_in is not None:
                self._due[collection] = min(now + due_in, before.get(collection, math.inf))

    def _nudge(self, collection: int) -> None:
        if (nudge := self._nudges.get(collection)) is not None:
            nudge()


class Sync:
    """A worker that embeds edits until it is stopped."""

    def __init__(
        self,
        store: Store,
        collection: Collection,
        embedder: Embedder,
        limiter: Limiter,
        options: WorkerOptions,
        poller: ChangePoller | None = None,
    ) -> None:
        # An outage of the provider or the database does not end a sync, however long it lasts.
        options = replace(options, give_up_after=None, max_rows=None, poll=CLAIM_SECONDS)
        self._store = store
        self._collection = collection
        self._worker = Worker(store, collection, EmbedBatches(embedder), limiter, options)
        self._poller = poller
        self._sweep_every = options.sweep_every

    @property
    def processed(self) -> int:
        """Rows processed since the start."""
        return self._worker.stats.processed

    def stop(self, _reason: str = "stopped") -> None:
        """Finish or release the rows in progress, and end `run`. Idempotent."""
        self._worker.stop()

    async def run(self) -> None:
        """Embed edits until `stop`.

        Raises:
            ProviderRefusedError: the provider refuses every request.

        """
        await self._store.follow(self._collection)
        await self._store.release_dead_workers(self._collection)
        async with beside(watch_problems(self._store, self._collection)), self._polling():
            if self._poller is not None:
                await self._follow(self._poller)
                return
            poller = ChangePoller(self._store)
            async with beside(poller.run()):
                await self._follow(poller)

    def _polling(self) -> AbstractAsyncContextManager[None]:
        """Poll a source without triggers during the block."""
        if self._collection.follow is None:
            return nullcontext()
        return beside(poll(self._store, self._collection, self._sweep_every))

    async def _follow(self, poller: ChangePoller) -> None:
        with poller.following(self._collection.id, self._worker.nudge):
            await self._worker.follow()
