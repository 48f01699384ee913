"""One task that watches the database: is it there, what changed; subscribers hear of it.

What it tells comes from the database after the commit, so it is true of every run and every worker,
also those of other processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from backline import errors
from backline.postgres.store import Store
from backline.server import reads, schemas
from backline.server.broadcast import Hub
from backline.server.metrics import Metrics
from backline.types import Collection, Coverage, RunRecord

TICK: Final = 0.5
AGAIN: Final = 0.25
RECENT_RUNS: Final = 20
UNDER_WAY: Final = frozenset({"running", "cancelling"})

log = structlog.get_logger("backline.server")


class Watch:
    """Runs until it is cancelled. `up` is whether the database answered last."""

    def __init__(self, store: Store, hub: Hub, metrics: Metrics) -> None:
        self.up = True
        self._why = ""
        self._store = store
        self._hub = hub
        self._metrics = metrics
        self._runs: dict[int, RunRecord] | None = None
        self._looked: datetime | None = None
        self._coverage: dict[str, Coverage] = {}
        self._failures_until: dict[str, datetime] = {}
        metrics.database_up.set(1)

    def check(self) -> None:
        """Refuse work that the database would be needed for, while it is away.

        Raises:
            DatabaseUnavailableError: with what it said last.
        """
        if not self.up:
            raise errors.DatabaseUnavailableError(self._why)

    async def run(self) -> None:
        while True:
            try:
                async with self._session() as session:
                    await self._came_back()
                    while True:
                        await self._tick(session)
            except (psycopg.Error, errors.DatabaseError) as error:
                self._went_away(error)
            except errors.ConfigurationError as error:  # the schema went, or is being made anew
                log.warning("cannot watch", error=str(error))
            except Exception:
                log.exception("bug")
            await asyncio.sleep(AGAIN)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncConnection[DictRow] | None]:
        """A connection of its own; through a transaction pooler there is none, only the pool."""
        if not self._store.connector.has_sessions:
            await self._store.now()
            yield None
            return
        async with await self._store.connector.dedicated() as session:
            yield session

    async def _came_back(self) -> None:
        if not self.up:
            await self._store.connector.revive()
            log.info("database is back")
        self.up, self._why = True, ""
        self._metrics.database_up.set(1)

    def _went_away(self, error: Exception) -> None:
        if isinstance(error, errors.DatabaseError) and not isinstance(
            error, errors.DatabaseUnavailableError
        ):
            log.warning("cannot watch", error=str(error))
            return
        if self.up:
            log.warning("database is away", error=str(error))
        self.up = False
        self._why = f"Postgres at {self._store.connector.where} does not answer at this moment."
        self._metrics.database_up.set(0)

    async def _tick(self, session: AsyncConnection[DictRow] | None) -> None:
        await asyncio.sleep(TICK)
        now = await self._clock(session)
        if any(self._hub.subscribers().values()):
            await self._tell()
        else:
            self._forget()
        self._looked = now

    async def _clock(self, session: AsyncConnection[DictRow] | None) -> datetime:
        """The database's time, which also shows that it answers."""
        if session is None:
            return await self._store.now()
        row = await (await session.execute("select now() as now")).fetchone()
        assert row is not None  # noqa: S101  a query without FROM has one row
        now: datetime = row["now"]
        return now

    # --- what changed ---

    def _forget(self) -> None:
        """Nobody listens; who comes next is told the present, not what happened before."""
        self._runs = None
        self._coverage.clear()
        self._failures_until.clear()

    async def _tell(self) -> None:
        collections = {each.name: each for each in await self._store.collections()}
        for collection in collections.values():
            await self._tell_of(collection)
        await self._tell_runs(collections)

    async def _tell_runs(self, collections: Mapping[str, Collection]) -> None:
        before, recent = self._runs, await self._store.runs(limit=RECENT_RUNS)
        self._runs = {run.id: run for run in recent}
        for run in reversed(recent):
            if run.collection in collections and _is_news(run, before, self._looked):
                # Counted after the run was read, so that the end of a run shows all that it did.
                of = collections[run.collection]
                shown = await reads.shown(self._store, of, await self._store.coverage(of))
                self._hub.publish("run_progress", run.collection, progress(run, shown))

    async def _tell_of(self, collection: Collection) -> None:
        name = collection.name
        coverage = await self._store.coverage(collection)
        before = self._coverage.get(name)
        self._coverage[name] = coverage
        if before is not None and _counts(before) != _counts(coverage):
            shown = await reads.shown(self._store, collection, coverage)
            self._hub.publish("coverage_changed", name, covered(name, shown))
        if name not in self._failures_until:
            self._failures_until[name] = await self._store.now()
        elif before is not None and coverage.failed > 0:
            await self._tell_failures(collection)

    async def _tell_failures(self, collection: Collection) -> None:
        since = self._failures_until[collection.name]
        for failure in await reads.failures_since(self._store, collection, since):
            self._failures_until[collection.name] = failure.failed_at
            self._hub.publish("failure_added", collection.name, {
                "collection": collection.name,
                "failure": schemas.Failure(
                    collection=collection.name, key=failure.key, kind=failure.kind,
                    error=failure.error, attempts=failure.attempts,
                    failed_at=failure.failed_at, run_id=failure.run_id,
                ).model_dump(mode="json"),
            })  # fmt: skip


def progress(run: RunRecord, coverage: schemas.Coverage) -> dict[str, Any]:
    """The body of a frame `run_progress`."""
    return {
        "run": schemas.Run.of(run).model_dump(mode="json"),
        "coverage": coverage.model_dump(mode="json"),
    }


def covered(name: str, coverage: schemas.Coverage) -> dict[str, Any]:
    """The body of a frame `coverage_changed`."""
    return {"collection": name, "coverage": coverage.model_dump(mode="json")}


def _is_news(
    run: RunRecord, before: Mapping[int, RunRecord] | None, looked: datetime | None
) -> bool:
    """Whether to tell of a run; `before` is None where nobody has listened until now.

    Who began to listen since the last look is told of what ended since then: a short run that they
    started themselves may be over already.
    """
    if run.state in UNDER_WAY:
        return True
    if before is None:
        return run.finished_at is not None and looked is not None and run.finished_at > looked
    return run.id not in before or before[run.id].state != run.state


def _counts(coverage: Coverage) -> tuple[int, ...]:
    """What counts as a change: not the clock, nor the rate."""
    return (
        coverage.rows, coverage.embedded, coverage.blank, coverage.pending, coverage.failed,
        coverage.in_flight, coverage.workers,
    )  # fmt: skip
