"""The engine of backfill, sync and server: claim rows, embed their texts, write the vectors.

A claim loop, `concurrency` embed loops, a writer and a heartbeat run at the same time. No
transaction is open while an embedder works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final

from backline import errors
from backline.embedders.limiter import Limiter
from backline.store import JobStore
from backline.types import Collection
from backline.worker.backlog import Backlog
from backline.worker.batch_handler import BatchHandler
from backline.worker.claims import ClaimLoop, Claims
from backline.worker.confirm import Confirmation
from backline.worker.embed import EmbedLoop
from backline.worker.job_sorter import JobSorter
from backline.worker.lease import WorkerLease
from backline.worker.options import WorkerOptions
from backline.worker.retry import retry_while_unavailable
from backline.worker.scan import TableScan
from backline.worker.send import HeldRows, Sender
from backline.worker.stats import Outage, WorkerStats
from backline.worker.tasks import end_tasks, first_failure, has_failed
from backline.worker.writer import Write, Writer

# Time for the last writes after a stop, even if the grace period is over.
WRITE_SECONDS: Final = 1.0


class Worker:
    """Works on one collection until it is stopped or its work is done."""

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        handler: BatchHandler,
        limiter: Limiter,
        options: WorkerOptions,
        run: int | None = None,
    ) -> None:
        self.stats = WorkerStats()
        self._store = store
        self._collection = collection
        self._options = options
        self._until: datetime | None = None
        self._locked = Outage(options.give_up_after)
        self._lease = WorkerLease(
            store, collection, run, options, self.stats, trims_cache=not handler.free
        )
        self._backlog = Backlog(
            replace(options.budget, max_items=options.batch_size), sort_by_length=True
        )
        self._writer = Writer(
            store, collection, self._lease, options, run=run,
            cache=not handler.free and options.cache_bytes > 0,
            on_processed=self._on_processed, on_all_locked=self._on_all_locked,
        )  # fmt: skip
        self._claims = Claims(
            store, collection, self._lease, self._backlog, options, self.stats, run=run
        )
        self._claim_loop = ClaimLoop(
            self._claims,
            JobSorter(
                store, collection, handler, self._backlog, self._writer,
                give_up_after=options.give_up_after,
            ),
            self._backlog, options, self.stats, on_all_locked=self._on_all_locked,
        )  # fmt: skip
        confirmation = Confirmation(
            store, collection, self._lease, self._writer, options, run=run,
            on_processed=self._on_processed,
        )  # fmt: skip
        held = HeldRows(store, collection, self._lease, options, on_dropped=self._on_dropped)
        self._embed_loop = EmbedLoop(
            Sender(handler, limiter, held), self._backlog, self._writer, confirmation, self.stats,
            give_up_after=options.give_up_after, on_taken=self._on_taken,
        )  # fmt: skip

    @property
    def run_state(self) -> str | None:
        """The state of the run in the database, at the last heartbeat."""
        return self._lease.run_state

    def stop(self) -> None:
        """Claim no more rows. Rows in progress are finished or released. Idempotent."""
        self._claim_loop.stop()

    def nudge(self) -> None:
        """Look for new work now."""
        self._claim_loop.nudge()

    async def drain(self, scan: TableScan | None = None) -> None:
        """Work until the rows in the queue, and those that `scan` finds due, are processed.

        Edits that are enqueued after the call are not waited for.

        Raises:
            ProviderRefusedError: the provider refuses every request.
            ProviderUnavailableError: it has embedded nothing for `give_up_after` seconds.
            DatabaseError: Postgres was down for that long, or its disk is full.
        """
        self._claims.scan = scan
        await self._work(self._drained)

    async def follow(self) -> None:
        """Work on edits as they arrive, until `stop`."""
        await self._work(self._never_done)

    # --- lifecycle ---

    async def _work(self, done: Callable[[], Awaitable[bool]]) -> None:
        await self._lease.register()
        writer = asyncio.create_task(self._writer.run(), name="writer")
        heartbeat = asyncio.create_task(self._lease.keep(self.stop), name="heartbeat")
        embed_loops = [
            asyncio.create_task(self._embed_loop.run(), name=f"embed loop {n}")
            for n in range(self._options.concurrency)
        ]
        claims = asyncio.create_task(self._claim_loop.run(done), name="claim loop")
        try:
            await first_failure(claims, [writer, heartbeat, *embed_loops])
        finally:
            await self._shut_down(claims, embed_loops, writer, heartbeat)

    async def _shut_down(
        self,
        claims: asyncio.Task[None],
        embed_loops: Sequence[asyncio.Task[None]],
        writer: asyncio.Task[None],
        heartbeat: asyncio.Task[None],
    ) -> None:
        """Finish batches in flight within the grace period, store them, and release the rest."""
        self.stop()
        claims.cancel()
        await self._backlog.close()
        deadline = time.monotonic() + self._options.grace
        with suppress(asyncio.CancelledError):
            await asyncio.wait(embed_loops, timeout=self._options.grace)
        await end_tasks(*embed_loops)
        if not has_failed(writer):
            with suppress(TimeoutError):
                async with asyncio.timeout(max(WRITE_SECONDS, deadline - time.monotonic())):
                    await self._writer.drain()
        await end_tasks(claims, writer, heartbeat)
        await self._lease.unregister()

    # --- the end of the work ---

    async def _never_done(self) -> bool:
        await self._claim_loop.wait(self._options.poll)
        return False

    async def _drained(self) -> bool:
        """Return whether every row is processed. Waits a little if not."""
        before = await self._deadline()
        await self._claims.end_finished_batches()
        remain, due_in = await retry_while_unavailable(
            partial(self._store.outstanding, self._collection, before),
            give_up_after=self._options.give_up_after,
        )
        if not remain:
            return True
        await self._lease.release_dead_workers()
        if due_in == 0 and self.stats.held == 0:  # other workers hold all that is due
            self._on_all_locked()
        else:
            self._locked.end()
        await self._claim_loop.wait(min(1.0, max(0.05, due_in if due_in is not None else 0.2)))
        return False

    async def _deadline(self) -> datetime:
        """Return the time of the first call. Later edits are not part of this drain."""
        if self._until is None:
            self._until = await retry_while_unavailable(
                self._store.now, give_up_after=self._options.give_up_after
            )
        return self._until

    # --- what the parts report ---

    def _on_processed(self, writes: Sequence[Write]) -> None:
        """Count rows as processed, whatever their outcome."""
        self.stats.processed += len(writes)
        self._locked.end()
        self._on_dropped(writes)

    def _on_dropped(self, writes: Sequence[Write]) -> None:
        """Stop counting rows as held."""
        for write in writes:
            if write.text is not None:
                self._backlog.finish_row(write.text)
        self._claims.finish_rows(writes)
        self.stats.held -= len(writes)
        if self.stats.held == 0 or self._claims.limit() > 0:
            self.nudge()

    def _on_taken(self) -> None:
        """Claim more rows if an embed loop has made room for them."""
        if self._claims.limit() > 0:
            self.nudge()

    def _on_all_locked(self) -> None:
        """Give up if open transactions have locked every remaining row for too long.

        Raises:
            ContentionError: for `give_up_after` seconds.
        """
        if (seconds := self._locked.overdue()) is not None:
            raise errors.ContentionError(
                f"For {seconds:.0f} s, open transactions have locked all the rows that are left. "
                "Nothing is lost: end those transactions (pg_stat_activity shows them as 'idle in "
                "transaction'), and run the same command again."
            )
