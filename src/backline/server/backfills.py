"""What a server does by itself: follow live edits, and carry out the runs that it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from backline import errors, wiring
from backline.backfill import Backfill
from backline.collections import check
from backline.config import Settings
from backline.postgres.store import Store
from backline.server.embedder_pool import Models
from backline.sync import Sync
from backline.types import Collection, Coverage, RunRecord
from backline.worker.tasks import end_tasks

LOOK_EVERY: Final = 5.0
TRY_AGAIN: Final = 30.0
GRACE: Final = 15.0
# Longer than this a run writes its report only where it builds an index.
REPORT_SECONDS: Final = 5.0

log = structlog.get_logger("backline.server")


@dataclass(slots=True)
class _Running:
    backfill: Backfill
    task: asyncio.Task[Any]
    collection: int


class Runs:
    """Backfills in the background."""

    def __init__(self, store: Store, settings: Settings, models: Models) -> None:
        self._store = store
        self._settings = settings
        self._models = models
        self._running: dict[int, _Running] = {}
        self._starting: set[int] = set()

    async def start(
        self, collection: Collection, batch_size: int | None, limit: int | None
    ) -> RunRecord:
        """Start one; returns it as the database has it once it is under way.

        Raises:
            RunInProgressError: this server is at one already, of the same collection.
            ConfigurationError: it cannot work; nothing was spent.
        """
        if collection.id in self._starting:
            raise errors.RunInProgressError(_under_way(collection))
        self._starting.add(collection.id)
        try:
            await self._let_end(collection)
            return await self._start(collection, batch_size, limit)
        finally:
            self._starting.discard(collection.id)

    async def _let_end(self, collection: Collection) -> None:
        """Whoever sees in the database that a run is over may ask for the next at once.

        Its report may not be written yet, nor its index built.
        """
        for run, running in list(self._running.items()):
            if running.collection != collection.id:
                continue
            if (await self.find(run)).state in ("running", "cancelling"):
                raise errors.RunInProgressError(_under_way(collection, run))
            await asyncio.wait({running.task}, timeout=REPORT_SECONDS)
            if not running.task.done():
                raise errors.RunInProgressError(
                    f"Run {run} of {collection.name!r} has ended, but its index is still being "
                    "built. Try again later."
                )

    async def _start(
        self, collection: Collection, batch_size: int | None, limit: int | None
    ) -> RunRecord:
        check(collection, collection.model)
        opened = await self._models.of(collection.model)
        options = wiring.worker_options(self._settings, collection.model, limit)
        options = replace(options, batch_size=batch_size or options.batch_size)
        backfill = Backfill(
            self._store, collection, opened.embedder, opened.limiter, options,
            {**wiring.shown_settings(self._settings, options), "started_by": "server"},
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
        else:  # it failed, or was over before anybody looked
            [record] = await self._store.runs(run=task.result().run)
        self._keep(record.id, _Running(backfill, task, collection.id))
        return record

    def _keep(self, run: int, running: _Running) -> None:
        self._running[run] = running

        def ended(task: asyncio.Task[Any]) -> None:
            self._running.pop(run, None)
            if not task.cancelled() and task.exception() is not None:
                log.error("run failed", run=run, error=str(task.exception()))

        running.task.add_done_callback(ended)

    async def cancel(self, run: int) -> RunRecord:
        """Ask any run to stop, whichever process it is in.

        Raises:
            RunNotFoundError: there is none of that number.
            RunEndedError: it has ended.
        """
        asked = await self._store.cancel_run(run)
        if asked and run in self._running:  # one of ours need not wait for its next heartbeat
            self._running[run].backfill.stop("cancelled")
        record = await self.find(run)
        if not asked and record.state != "cancelling":
            raise errors.RunEndedError(
                f"Run {run} has ended already ({record.state}); there is nothing to cancel."
            )
        return record

    async def find(self, run: int) -> RunRecord:
        found = await self._store.runs(run=run)
        if not found:
            raise errors.RunNotFoundError(f"There is no run {run}. See: backline runs list.")
        return found[0]

    async def aclose(self) -> None:
        """Let each finish or give back what it has in hand."""
        for running in self._running.values():
            running.backfill.stop("the server was stopped")
        tasks = [running.task for running in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)
        await end_tasks(*tasks)  # the leases of these run out


def _under_way(collection: Collection, run: int | None = None) -> str:
    number = "" if run is None else f": {run}"
    return (
        f"A run of {collection.name!r} is under way{number}. Cancel it first, or wait for its end."
    )


class Followers:
    """A worker for each collection that this server has the model of."""

    def __init__(self, store: Store, settings: Settings, models: Models) -> None:
        self._store = store
        self._settings = settings
        self._models = models
        self._syncs: dict[tuple[int, int], tuple[Sync, asyncio.Task[None]]] = {}
        self._not_before: dict[tuple[int, int], float] = {}
        self._said: set[str] = set()

    async def run(self) -> None:
        """Look for new collections, and for followers that ended, until cancelled."""
        while True:
            try:
                await self._look()
            except errors.BacklineError as error:
                self._say("cannot look for collections", error)
            except Exception:
                log.exception("bug")
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self) -> None:
        collections = await self._store.collections()
        wanted = {(each.id, each.model_id): each for each in collections if each.table_exists}
        for each in [each for each in self._syncs if each not in wanted]:
            self._syncs[each][0].stop()
        now = asyncio.get_running_loop().time()
        for each, collection in wanted.items():
            if each not in self._syncs and self._not_before.get(each, 0) <= now:
                await self._follow(each, collection)

    async def _follow(self, each: tuple[int, int], collection: Collection) -> None:
        self._not_before[each] = asyncio.get_running_loop().time() + TRY_AGAIN
        try:
            check(collection, collection.model)
            opened = await self._models.of(collection.model)
        except errors.BacklineError as error:
            self._say(f"edits of {collection.name} are not followed", error)
            return
        options = wiring.worker_options(self._settings, collection.model)
        sync = Sync(self._store, collection, opened.embedder, opened.limiter, options)
        task = asyncio.create_task(self._keep_following(each, collection.name, sync.run()))
        self._syncs[each] = (sync, task)
        log.info("following", collection=collection.name)

    async def _keep_following(
        self, each: tuple[int, int], name: str, work: Coroutine[Any, Any, None]
    ) -> None:
        try:
            await work
        except errors.BacklineError as error:
            self._say(f"edits of {name} are not followed any more", error)
        except Exception:
            log.exception("bug", collection=name)
        finally:
            self._syncs.pop(each, None)

    def _say(self, what: str, error: Exception) -> None:
        """Once for each reason: this is looked at every few seconds."""
        line = f"{what}: {error}"
        if line not in self._said and len(self._said) < 1000:
            self._said.add(line)
            log.warning(what, error=str(error))

    async def aclose(self) -> None:
        for sync, _ in self._syncs.values():
            sync.stop()
        tasks = [task for _, task in self._syncs.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)
        await end_tasks(*tasks)  # the leases of these run out
