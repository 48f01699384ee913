"""Embed edits as they arrive, by polling the change log."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Final, NamedTuple

import structlog

from backline import errors
from backline.collections import check, choose
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.polling import poll
from backline.postgres.store import Store
from backline.problems import watch_problems
from backline.search.indexes import keep_keywords
from backline.types import Collection
from backline.worker.batch_handler import EmbedBatches
from backline.worker.options import WorkerOptions
from backline.worker.tasks import beside, end_tasks
from backline.worker.worker import Worker

# Intervals between two polls of the change log: soon after a change, and where nothing happens.
BUSY_SECONDS: Final = 0.01
IDLE_SECONDS: Final = 0.2
# Time since the last change after which the longer interval is used.
BUSY_FOR_SECONDS: Final = 2.0
RECONNECT_SECONDS: Final = 1.0
# Interval between two claims without a change.
CLAIM_SECONDS: Final = 60.0
# Interval between two looks for targets, which a change of the model adds or drops.
TARGET_SECONDS: Final = 2.0
# Time until a target that does not serve yet is tried again after an error.
RETRY_SECONDS: Final = 30.0

log = structlog.get_logger("backline.sync")


class ChangePoller:
    """Polls for changes and jobs of all collections that a process follows, in one statement.

    While nothing is committed in the database, the snapshot stays the same. Then a poll reads the
    snapshot only, which takes a third of the processor time.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._nudges: dict[int, Callable[[], None]] = {}
        self._due: dict[int, float] = {}  # when jobs that wait will be due
        self.snapshot = ""  # of the last poll for changes
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

    def is_unchanged(self, snapshot: str) -> bool:
        """Return whether no poll has found a commit since it had this `snapshot`."""
        return bool(self._nudges) and snapshot == self.snapshot

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
        if self._nudges and not (self._unchanged and await snapshot() == self.snapshot):
            await self._look()

    async def _look(self) -> None:
        """Nudge the workers that have work now, and note when others will have some."""
        collections = [*self._nudges]
        snapshot, seconds = await self._store.work_due(collections)
        self._unchanged = snapshot == self.snapshot and 0 not in seconds
        self.snapshot = snapshot
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


class Opened(NamedTuple):
    """What a sync of one collection needs besides its store."""

    embedder: Embedder
    limiter: Limiter
    options: WorkerOptions


class TargetSync:
    """Follows a collection by its name, through changes of its model.

    Each target that edits are to reach has a `Sync` of its own: the serving one, and the other one
    of a change. `open_for` opens the embedder of a collection.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        open_for: Callable[[Collection], AbstractAsyncContextManager[Opened]],
    ) -> None:
        self._store = store
        self._name = name
        self._open_for = open_for
        self._poller = ChangePoller(store)
        self._snapshot = ""  # of the poller when the targets were read
        self._seen: list[tuple[int, str, int, bool]] | None = None
        self._targets: dict[tuple[int, int], Collection] = {}
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._syncs: dict[tuple[int, int], Sync] = {}
        self._not_before: dict[tuple[int, int], float] = {}
        self._ended = 0
        self._stopping = asyncio.Event()

    @property
    def processed(self) -> int:
        """Rows processed since the start, in all targets."""
        return self._ended + sum(sync.processed for sync in self._syncs.values())

    def stop(self, _reason: str = "stopped") -> None:
        """Finish or release the rows in progress, and end `run`. Idempotent."""
        self._stopping.set()
        for sync in self._syncs.values():
            sync.stop()

    async def run(self) -> None:
        """Embed edits until `stop`.

        Raises:
            ProviderRefusedError: the provider refuses every request of the serving target.
            CollectionNotFoundError: the collection was dropped.

        """
        async with beside(self._poller.run()):
            try:
                while not self._stopping.is_set():
                    with suppress(errors.DatabaseError):  # the workers outlast an outage
                        await self._update()
                    await self._wait()
                while self._tasks:
                    await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
                    await self._end_finished()
            finally:
                await end_tasks(*self._tasks.values())

    async def _update(self) -> None:
        """Start a sync for each target without one, and stop those of other targets."""
        if not self._poller.is_unchanged(self._snapshot):
            snapshot = self._poller.snapshot
            await self._read_targets()
            self._snapshot = snapshot
        for key in self._syncs.keys() - self._targets.keys():
            self._syncs[key].stop()
        for key, collection in self._targets.items():
            if self._stopping.is_set():
                return
            if key not in self._tasks and self._not_before.get(key, 0) <= time.monotonic():
                self._tasks[key] = asyncio.create_task(self._follow(key, collection))

    async def _read_targets(self) -> None:
        seen = await self._store.targets_of(self._name)
        if seen == self._seen:  # the names of all tables would be read for nothing
            return
        collections = await self._store.collections()
        choose(collections, self._name)
        self._targets = {
            (c.id, c.model_id): c for c in collections if c.family == self._name and not c.frozen
        }
        self._seen = seen

    async def _follow(self, key: tuple[int, int], collection: Collection) -> None:
        check(collection, collection.model)
        async with self._open_for(collection) as opened:
            sync = Sync(self._store, collection, *opened, self._poller)
            self._syncs[key] = sync
            if not self._stopping.is_set():
                await sync.run()

    async def _wait(self) -> None:
        """Wait until a sync ends, `stop`, or the next look for targets."""
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait(
            {stopped, *self._tasks.values()},
            timeout=TARGET_SECONDS, return_when=asyncio.FIRST_COMPLETED,
        )  # fmt: skip
        await end_tasks(stopped)
        await self._end_finished()

    async def _end_finished(self) -> None:
        for key in [key for key, task in self._tasks.items() if task.done()]:
            await self._end(key)

    async def _end(self, key: tuple[int, int]) -> None:
        """Forget a sync that ended. Raise its error if it is that of the serving target."""
        task = self._tasks.pop(key)
        if (sync := self._syncs.pop(key, None)) is not None:
            self._ended += sync.processed
        if (error := task.exception()) is None:
            return
        self._not_before[key] = time.monotonic() + RETRY_SECONDS
        with suppress(errors.DatabaseError):
            await self._update()
        target = self._targets.get(key)
        if target is not None and target.role == "serving":
            raise error
        if target is not None:
            log.warning("live sync stopped", collection=target.name, error=str(error))
