"""Runs backfills in the background of the server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from backline import errors, wiring
from backline.backfill import Backfill, BackfillReport
from backline.collections import check
from backline.config import Settings
from backline.postgres.store import Store
from backline.server.embedder_pool import EmbedderPool
from backline.types import Collection, Coverage, RunRecord
from backline.worker.tasks import end_tasks

GRACE_SECONDS: Final = 15.0
# A run that has ended takes longer than this to write its report only if it builds an index.
REPORT_SECONDS: Final = 5.0

log = structlog.get_logger("backline.server")


@dataclass(frozen=True, slots=True)
class _Running:
    backfill: Backfill
    task: asyncio.Task[BackfillReport]
    collection: int


class Backfills:
    """The backfills of this server, at most one for each collection."""

    def __init__(self, store: Store, settings: Settings, pool: EmbedderPool) -> None:
        self._store = store
        self._settings = settings
        self._pool = pool
        self._running: dict[int, _Running] = {}
        self._starting: set[int] = set()

    async def start(
        self, collection: Collection, batch_size: int | None, limit: int | None
    ) -> RunRecord:
        """Start a backfill and return its record once the run has begun.

        Raises:
            RunInProgressError: this server runs a backfill of the collection already.
            ConfigurationError: the run cannot start. Nothing was embedded.
        """
        record, _ = await self._begin(collection, batch_size, limit)
        return record

    async def fill(self, collection: Collection) -> BackfillReport:
        """Run a backfill to its end and return its report. It builds no index.

        If the caller is cancelled, the run goes on until `stop` or `aclose`.

        Raises:
            RunInProgressError: this server runs a backfill of the collection already.
            ConfigurationError: the run cannot start. Nothing was embedded.
        """
        _, task = await self._begin(collection, None, None, build_index=False)
        return await asyncio.shield(task)

    async def stop(self, collection: int, reason: str) -> None:
        """Let the run of a collection finish or release its rows, and wait for its end."""
        running = [each for each in self._running.values() if each.collection == collection]
        for each in running:
            each.backfill.stop(reason)
        if running:
            await asyncio.wait([each.task for each in running], timeout=GRACE_SECONDS)

    async def _begin(
        self, collection: Collection, batch_size: int | None, limit: int | None, *,
        build_index: bool = True,
    ) -> tuple[RunRecord, asyncio.Task[BackfillReport]]:  # fmt: skip
        if collection.id in self._starting:
            raise errors.RunInProgressError(_in_progress(collection))
        self._starting.add(collection.id)
        try:
            await self._wait_for_report(collection)
            return await self._start(collection, batch_size, limit, build_index=build_index)
        finally:
            self._starting.discard(collection.id)

    async def _wait_for_report(self, collection: Collection) -> None:
        """Wait until an ended run of the collection has written its report.

        A run is marked as ended before that, so a client may start the next one early.

        Raises:
            RunInProgressError: the run has not ended, or is still building its index.
        """
        for run, running in list(self._running.items()):
            if running.collection != collection.id:
                continue
            if (await self.find(run)).state in ("running", "cancelling"):
                raise errors.RunInProgressError(_in_progress(collection, run))
            await asyncio.wait({running.task}, timeout=REPORT_SECONDS)
            if not running.task.done():
                raise errors.RunInProgressError(
                    f"Run {run} of {collection.name!r} has ended, but its index is still being "
                    "built. Try again later."
                )

    async def _start(
        self, collection: Collection, batch_size: int | None, limit: int | None, *,
        build_index: bool,
    ) -> tuple[RunRecord, asyncio.Task[BackfillReport]]:  # fmt: skip
        check(collection, collection.model)
        pooled = await self._pool.get(collection.model)
        options = wiring.worker_options(self._settings, collection.model, limit)
        options = replace(options, batch_size=batch_size or options.batch_size)
        backfill = Backfill(
            self._store, collection, pooled.embedder, pooled.limiter, options,
            {**wiring.shown_settings(self._settings, options), "started_by": "server"},
            build_index=build_index,
        )  # fmt: skip
        begun: asyncio.Future[RunRecord] = asyncio.get_running_loop().create_future()

        def on_progress(record: RunRecord, _coverage: Coverage) -> None:
            if not begun.done():
                begun.set_result(record)

        task = asyncio.create_task(backfill.run(on_progress))
        either: set[asyncio.Future[Any]] = {task, begun}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            record = begun.result()
        else:  # the run failed, or ended before its first progress report
            [record] = await self._store.runs(run=task.result().run)
        self._track(record.id, _Running(backfill, task, collection.id))
        return record, task

    def _track(self, run: int, running: _Running) -> None:
        self._running[run] = running

        def on_end(task: asyncio.Task[Any]) -> None:
            self._running.pop(run, None)
            if not task.cancelled() and task.exception() is not None:
                log.error("run failed", run=run, error=str(task.exception()))

        running.task.add_done_callback(on_end)

    async def cancel(self, run: int) -> RunRecord:
        """Cancel a run of any process.

        Raises:
            RunNotFoundError: no run has that number.
            RunEndedError: the run has ended.
        """
        cancelling = await self._store.cancel_run(run)
        if cancelling and run in self._running:  # without waiting for its next heartbeat
            self._running[run].backfill.stop("cancelled")
        record = await self.find(run)
        if not cancelling and record.state != "cancelling":
            raise errors.RunEndedError(
                f"Run {run} has ended already ({record.state}); there is nothing to cancel."
            )
        return record

    async def find(self, run: int) -> RunRecord:
        records = await self._store.runs(run=run)
        if not records:
            raise errors.RunNotFoundError(f"There is no run {run}. See: backline runs list.")
        return records[0]

    async def aclose(self) -> None:
        """Let each run finish or release its rows; the leases of the rest expire."""
        running = list(self._running.values())
        for each in running:
            each.backfill.stop("the server was stopped")
        if running:
            await asyncio.wait([each.task for each in running], timeout=GRACE_SECONDS)
        await end_tasks(*(each.task for each in running))


def _in_progress(collection: Collection, run: int | None = None) -> str:
    number = "" if run is None else f": {run}"
    return f"A run of {collection.name!r} is under way{number}. Cancel it, or wait until it ends."
