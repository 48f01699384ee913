"""Claim rows, from the queue of edits and from a table scan, no more than the worker needs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from backline.store import JobStore
from backline.types import Collection, Job
from backline.worker.backlog import Backlog
from backline.worker.job_sorter import JobSorter
from backline.worker.lease import WorkerLease
from backline.worker.options import LARGEST_CLAIM, WorkerOptions
from backline.worker.retry import retry_while_unavailable
from backline.worker.scan import TableScan
from backline.worker.stats import WorkerStats
from backline.worker.tasks import end_tasks
from backline.worker.writer import Write

MOST_HELD: Final = 8000
# Interval between two claims from the queue during a table scan.
QUEUE_SECONDS: Final = 0.1
# Interval between two checks for the end of the work while edits keep arriving.
DONE_SECONDS: Final = 1.0
# Interval between two attempts to lease pages with locked rows.
DEFERRED_SECONDS: Final = 0.2
# Time that a claim in progress gets after a stop.
LAST_CLAIM_SECONDS: Final = 1.0
# Interval between two checks of a full backlog.
FULL_SECONDS: Final = 0.02


class Claims:
    """Decides how many rows to claim, and claims them."""

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        lease: WorkerLease,
        backlog: Backlog,
        options: WorkerOptions,
        stats: WorkerStats,
        *,
        run: int | None,
    ) -> None:
        self.scan: TableScan | None = None
        self._store = store
        self._collection = collection
        self._lease = lease
        self._backlog = backlog
        self._options = options
        self._stats = stats
        self._run = run
        self._queue_claimed_at = 0.0
        self._batches: Counter[int] = Counter()  # rows held of each batch lease

    @property
    def scanning(self) -> bool:
        """Whether the table scan has pages left to lease."""
        return self.scan is not None and not self.scan.finished and not self.exhausted

    @property
    def exploring(self) -> bool:
        """Whether the table scan has pages that it has not read."""
        return self.scanning and self.scan is not None and not self.scan.reached_end

    @property
    def exhausted(self) -> bool:
        """Whether `max_rows` rows are processed or held."""
        return self._options.max_rows is not None and self.allowed <= 0

    @property
    def allowed(self) -> int:
        """Rows that may still be claimed under `max_rows`."""
        if self._options.max_rows is None:
            return sys.maxsize
        return self._options.max_rows - self._stats.processed - self._stats.held

    @property
    def worker(self) -> int:
        """The id under which rows are claimed at present."""
        return self._lease.worker

    def limit(self) -> int:
        """Return how many rows to claim now, so that no embed loop waits for the database.

        Two rounds of the embed loops, or the work of two seconds, are kept ready. A larger backlog
        would withhold rows from other workers. Returns 0 while more than half of it is left, or
        while the writer is behind: small claims cost the database as much as large ones.
        """
        ahead = 2 * self._options.batch_size * self._options.concurrency
        ahead = min(LARGEST_CLAIM, max(ahead, self._options.ahead, int(2 * self._stats.rate)))
        if len(self._backlog) > ahead // 2:
            return 0
        room = min(ahead, MOST_HELD - self._stats.held)
        return 0 if room < ahead // 4 else min(room, self.allowed)

    async def next_jobs(self, limit: int) -> list[Job]:
        """Claim edits from the queue, then due rows of the next page of the scan."""
        jobs: list[Job] = []
        if not self.scanning or time.monotonic() - self._queue_claimed_at > QUEUE_SECONDS:
            self._queue_claimed_at = time.monotonic()
            jobs = await self._claim_queue(limit)
        if self.scan is not None and self.scanning and len(jobs) < limit:
            jobs += await self._claim_page(self.scan, limit - len(jobs))
        return jobs

    def finish_rows(self, writes: Sequence[Write]) -> None:
        """Count rows off their batch leases. A batch lease without rows in progress may end."""
        if not self._batches:
            return
        for lease, count in Counter([write.row.lease for write in writes]).items():
            if lease is not None and lease in self._batches:
                self._batches[lease] -= count
                if self._batches[lease] <= 0:
                    del self._batches[lease]

    async def end_finished_batches(self) -> None:
        """Delete batch leases in which every row is processed."""
        if self.scan is not None:
            await retry_while_unavailable(
                lambda: self._store.end_finished_batches(self._lease.worker, self._batches),
                give_up_after=self._options.give_up_after,
            )

    async def _claim_queue(self, limit: int) -> list[Job]:
        return await retry_while_unavailable(
            lambda: self._store.claim(
                self._collection, self._lease.worker, limit, edits_only=self.exploring
            ),
            give_up_after=self._options.give_up_after,
        )

    async def _claim_page(self, scan: TableScan, limit: int) -> list[Job]:
        page = await retry_while_unavailable(
            lambda: scan.claim(
                self._store, self._collection, self._lease.worker, self._run, limit, self._batches
            ),
            give_up_after=self._options.give_up_after,
        )
        if page:
            self._batches[page[0].lease] = len(page)
        return page


class ClaimLoop:
    """Claims and sorts rows until `stop`, or until the work is done."""

    def __init__(
        self,
        claims: Claims,
        sorter: JobSorter,
        backlog: Backlog,
        options: WorkerOptions,
        stats: WorkerStats,
        on_all_locked: Callable[[], None],
    ) -> None:
        self._claims = claims
        self._sorter = sorter
        self._backlog = backlog
        self._options = options
        self._stats = stats
        self._on_all_locked = on_all_locked
        self._stopping = asyncio.Event()
        self._nudge = asyncio.Event()

    def stop(self) -> None:
        """Claim nothing more. Idempotent."""
        self._stopping.set()
        self._nudge.set()

    def nudge(self) -> None:
        """End the present wait: there may be new rows, or room to claim them."""
        self._nudge.set()

    async def wait(self, seconds: float) -> None:
        """Sleep until a nudge, at most this long."""
        # Not wait_for: in Python 3.11 it loses a cancellation that arrives with the nudge.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._nudge.wait()
        self._nudge.clear()

    async def run(self, done: Callable[[], Awaitable[bool]]) -> None:
        """Claim until stopped, until `done`, or until `max_rows` rows are processed.

        A stop does not wait for a database that is down: the claim in progress is abandoned.
        """
        work = asyncio.create_task(self._run(done))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({work}, timeout=LAST_CLAIM_SECONDS)
        finally:
            failures = await end_tasks(work, stop)
        if failures:
            raise failures[0]

    async def _run(self, done: Callable[[], Awaitable[bool]]) -> None:
        checked = time.monotonic()
        while not self._stopping.is_set():
            limit = self._claims.limit()
            if limit <= 0:
                if self._stats.held == 0 and self._claims.exhausted:
                    return
                await self._wait_for_room()
                continue
            claimed = await self._claim(limit)
            if self._claims.exploring:
                continue
            if not claimed:
                await self._backlog.flush()
            if self._claims.scanning:
                self._on_all_locked()
                await self.wait(DEFERRED_SECONDS)
            elif self._stats.held == 0 or time.monotonic() - checked > DONE_SECONDS:
                checked = time.monotonic()
                if await done():
                    return
            elif not claimed:
                await self.wait(self._options.poll)

    async def _claim(self, limit: int) -> int:
        """Claim and sort up to `limit` rows. Returns the number of rows claimed."""
        worker = self._claims.worker  # a heartbeat may replace it during the claim
        with self._backlog.keep_finished():
            jobs = await self._claims.next_jobs(limit)
            self._backlog.more_coming = self._claims.exploring or (
                len(jobs) == limit and self._claims.allowed > len(jobs)
            )
            self._stats.held += len(jobs)
            await self._sorter.sort(jobs, worker)
        return len(jobs)

    async def _wait_for_room(self) -> None:
        if len(self._backlog) < self._options.batch_size:
            await self._backlog.flush()  # a batch will not fill up before there is room
        await self.wait(FULL_SECONDS)
