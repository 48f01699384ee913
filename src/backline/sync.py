"""Embed edits as they arrive, by polling the change log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Final

from backline import errors
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.polling import poll
from backline.postgres.store import Store
from backline.problems import watch_problems
from backline.search.indexes import keep_keywords
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
# Interval between two claims without a change, for the rows that other workers release.
CLAIM_SECONDS: Final = 5.0


class ChangePoller:
    """Polls for changes and jobs of all collections that a process follows, in one statement."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._nudges: dict[int, Callable[[], None]] = {}

    @contextmanager
    def following(self, collection: int, nudge: Callable[[], None]) -> Iterator[None]:
        """Call `nudge` when a collection has work, until the end of the block."""
        self._nudges[collection] = nudge
        try:
            yield
        finally:
            if self._nudges.get(collection) is nudge:
                del self._nudges[collection]

    async def run(self) -> None:
        """Poll until cancelled. During an outage of the database, workers retry their own calls."""
        changed_at = float("-inf")
        while True:
            busy = time.monotonic() - changed_at < BUSY_FOR_SECONDS
            await asyncio.sleep(BUSY_SECONDS if busy else IDLE_SECONDS)
            try:
                changed = await self._store.has_work([*self._nudges]) if self._nudges else []
            except errors.DatabaseError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            for collection in changed:
                changed_at = time.monotonic()
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
        async with (
            beside(watch_problems(self._store, self._collection)),
            beside(keep_keywords(self._store, self._collection)),
            self._polling(),
        ):
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
