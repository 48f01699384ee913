"""Fills the targets of changes of models in the background of the server."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from backline import errors, model_change
from backline.model_change import NewTarget, Plan
from backline.postgres.store import Store
from backline.reconcile import reconcile_unscanned
from backline.server import reads
from backline.server.backfills import Backfills
from backline.server.embedder_pool import EmbedderPool
from backline.types import Collection, ModelChange
from backline.worker.tasks import end_tasks

POLL_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 30.0
FILLING: Final = ("filling", "indexing")
# What may pass by itself. After any other error, a change waits for a request that continues it.
TEMPORARY: Final = (
    errors.DatabaseUnavailableError, errors.ContentionError, errors.StatementTimeoutError,
    errors.NotFilledError, errors.RunInProgressError, errors.EmbedderError,
)  # fmt: skip

log = structlog.get_logger("backline.server")


class ModelChanges:
    """The changes that this server carries out, at most one for each collection."""

    def __init__(self, store: Store, pool: EmbedderPool, backfills: Backfills) -> None:
        self._store = store
        self._pool = pool
        self._backfills = backfills
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopped: dict[int, str] = {}
        self._not_before: dict[int, float] = {}

    def running(self, name: str) -> bool:
        """Return whether this server fills the new target of a collection now."""
        return name in self._tasks

    def why_stopped(self, change: ModelChange) -> str | None:
        """Return why this server does not go on with a change by itself."""
        return self._stopped.get(change.id)

    async def plan(self, collection: Collection, target: NewTarget) -> Plan:
        """Return what a change will cost; see `model_change.plan`."""
        pooled = await self._pool.get(target.model)
        return await model_change.plan(self._store, collection, pooled.embedder, target)

    async def begin(self, collection: Collection, target: NewTarget, *, paid: bool) -> None:
        """Make the second target. With `paid`, its vectors may cost money.

        Raises:
            UsageError: the vectors cost money, and `paid` is false. Nothing was changed.
        """
        pooled = await self._pool.get(target.model)
        await model_change.probe(pooled.embedder)
        if not paid:
            plan = await self.plan(collection, target)
            model_change.require_consent([plan], 'To pay it, send the same with "yes": true.')
        await model_change.begin(self._store, collection, target)

    def go_on(self, change: ModelChange, *, despite_failures: bool = False) -> None:
        """Fill the new target and build its indexes, in the background."""
        if change.name in self._tasks or not change.open:
            return
        self._stopped.pop(change.id, None)
        work = self._carry_out(change, despite_failures=despite_failures)
        self._tasks[change.name] = asyncio.create_task(work)

    async def _carry_out(self, change: ModelChange, *, despite_failures: bool) -> None:
        try:
            await self._fill(change, despite_failures=despite_failures)
        except errors.BacklineError as error:
            temporary = isinstance(error, TEMPORARY)
            if temporary and not isinstance(error, errors.ProviderRefusedError):
                now = asyncio.get_running_loop().time()
                self._not_before[change.id] = now + RETRY_SECONDS
            else:
                self._stopped[change.id] = str(error)
            log.warning("change of the model stopped", collection=change.name, error=str(error))
        except Exception:
            self._stopped[change.id] = "This is a bug in Backline; the log of the server has it."
            log.exception("bug", collection=change.name)
        finally:
            self._tasks.pop(change.name, None)

    async def _fill(self, change: ModelChange, *, despite_failures: bool) -> None:
        if change.copies and change.state == "filling":
            await model_change.copy(self._store, change)
        target = await model_change.new_target(self._store, change)
        report = await self._backfills.fill(target)
        if report.state == "cancelled":
            raise errors.ModelChangeError(f"Run {report.run} of {target.name!r} was cancelled.")
        if report.stopped_by:
            raise errors.ProviderUnavailableError(report.stopped_by)
        if change.state in FILLING:
            await model_change.finish(self._store, change, despite_failures=despite_failures)
            log.info("change of the model is ready", collection=change.name)

    def reconcile(self, name: str) -> None:
        """Find the edits that a former target missed while it was frozen, in the background."""
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._reconcile(name))

    async def _reconcile(self, name: str) -> None:
        try:
            await reconcile_unscanned(self._store, name)
        except errors.BacklineError as error:
            log.warning("reconciliation stopped", collection=name, error=str(error))
        except Exception:
            log.exception("bug", collection=name)
        finally:
            self._tasks.pop(name, None)

    # --- continuing what another process has begun ---

    async def run(self) -> None:
        """Go on with open changes that no process works on, until cancelled."""
        while True:
            try:
                await self._resume()
            except errors.BacklineError as error:
                log.warning("cannot list changes of models", error=str(error))
            except Exception:
                log.exception("bug")
            await asyncio.sleep(POLL_SECONDS)

    async def _resume(self) -> None:
        now = asyncio.get_running_loop().time()
        for change in await self._store.changes():
            waits = change.id in self._stopped or self._not_before.get(change.id, 0) > now
            if change.state not in FILLING or waits or change.name in self._tasks:
                continue
            if not await self._is_worked_on(change):
                self.go_on(change)

    async def _is_worked_on(self, change: ModelChange) -> bool:
        """Return whether another process fills the new target, or builds an index."""
        building = await self._store.connector.fetch_one(reads.query("index_builds"))
        if building["builds"]:
            return True
        target = await model_change.new_target(self._store, change)
        await self._store.release_dead_workers(target)
        return any(run.state == "running" for run in await self._store.runs(target))

    # --- the end ---

    async def stop(self, name: str) -> None:
        """Stop filling the new target of a collection, before it is dropped."""
        if (task := self._tasks.get(name)) is None:
            return
        for each in await self._store.collections():
            if each.family == name and each.role == "filling":
                await self._backfills.stop(each.id, "the change was cancelled")
        await end_tasks(task)

    async def aclose(self) -> None:
        """Stop at once; the runs are ended by `Backfills.aclose`."""
        await end_tasks(*self._tasks.values())
