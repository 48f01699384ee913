"""Polls the database for changes and publishes them to WebSocket subscribers.

Events are read from the database after the commit, so they cover every run and every worker,
including those of other processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from backline import errors
from backline.postgres.store import Store
from backline.problems import ProblemCache
from backline.server import reads, schemas
from backline.server.broadcast import Broadcaster
from backline.server.metrics import Metrics
from backline.types import Collection, Coverage, RunRecord

POLL_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 0.25
RECENT_RUNS: Final = 20
ACTIVE: Final = frozenset({"running", "cancelling"})

log = structlog.get_logger("backline.server")


class ChangeFeed:
    """Polls until it is cancelled. `up` is whether the database answered the last poll."""

    def __init__(
        self, store: Store, broadcaster: Broadcaster, metrics: Metrics, problems: ProblemCache
    ) -> None:
        self.up = True
        self._reason = ""
        self._store = store
        self._problems = problems
        self._broadcaster = broadcaster
        self._metrics = metrics
        self._runs: dict[int, RunRecord] | None = None
        self._polled_at: datetime | None = None
        self._coverage: dict[str, Coverage] = {}
        self._failures_until: dict[int, datetime] = {}  # by id: a cut-over swaps names
        metrics.database_up.set(1)

    def check(self) -> None:
        """Fail at once while the database is down, instead of waiting for a connection.

        Raises:
            DatabaseUnavailableError: the last poll had no answer.
        """
        if not self.up:
            raise errors.DatabaseUnavailableError(self._reason)

    async def run(self) -> None:
        while True:
            try:
                async with self._session() as session:
                    await self._on_connected()
                    while True:
                        await self._poll(session)
            except (psycopg.Error, errors.DatabaseUnavailableError) as error:
                self._on_disconnected(error)
            # A ConfigurationError means that the schema is missing or being migrated.
            except (errors.DatabaseError, errors.ConfigurationError) as error:
                log.warning("cannot poll for changes", error=str(error))
            except Exception:
                log.exception("bug")
            await asyncio.sleep(RETRY_SECONDS)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncConnection[DictRow] | None]:
        """Open a dedicated connection, or None to use the pool through a transaction pooler."""
        if not self._store.connector.has_sessions:
            await self._store.now()
            yield None
            return
        async with await self._store.connector.dedicated() as session:
            yield session

    async def _on_connected(self) -> None:
        if not self.up:
            await self._store.connector.revive()
            log.info("database is back")
        self.up, self._reason = True, ""
        self._metrics.database_up.set(1)

    def _on_disconnected(self, error: Exception) -> None:
        if self.up:
            log.warning("database is down", error=str(error))
        self.up = False
        self._reason = f"Postgres at {self._store.connector.where} does not answer at this moment."
        self._metrics.database_up.set(0)

    async def _poll(self, session: AsyncConnection[DictRow] | None) -> None:
        await asyncio.sleep(POLL_SECONDS)
        now = await self._now(session)
        if any(self._broadcaster.subscribers().values()):
            await self._publish()
        else:
            self._reset()
        self._polled_at = now

    async def _now(self, session: AsyncConnection[DictRow] | None) -> datetime:
        """Return the database's clock, which also proves that the database answers."""
        if session is None:
            return await self._store.now()
        [row] = await (await session.execute("select now() as now")).fetchall()
        now: datetime = row["now"]
        return now

    # --- events ---

    def _reset(self) -> None:
        """Forget what was published: without subscribers, the next one starts from the present."""
        self._runs = None
        self._coverage.clear()
        self._failures_until.clear()

    async def _publish(self) -> None:
        collections = {each.name: each for each in await self._store.collections()}
        for collection in collections.values():
            await self._publish_collection(collection)
        await self._publish_runs(collections)

    async def _publish_runs(self, collections: Mapping[str, Collection]) -> None:
        before, recent = self._runs, await self._store.runs(limit=RECENT_RUNS)
        self._runs = {run.id: run for run in recent}
        for run in reversed(recent):
            if run.collection in collections and _is_news(run, before, self._polled_at):
                # Coverage is counted after the run is read, so the last event is complete.
                collection = collections[run.collection]
                coverage = await self._read_coverage(collection)
                view = await reads.coverage_view(self._store, collection, coverage)
                self._broadcaster.publish(
                    "run_progress", run.collection, run_progress_event(run, view)
                )

    async def _publish_collection(self, collection: Collection) -> None:
        name = collection.name
        coverage = await self._read_coverage(collection)
        before = self._coverage.get(name)
        self._coverage[name] = coverage
        if before is not None and _counts(before) != _counts(coverage):
            view = await reads.coverage_view(self._store, collection, coverage)
            self._broadcaster.publish("coverage_changed", name, coverage_event(name, view))
        if collection.id not in self._failures_until:
            self._failures_until[collection.id] = await self._store.now()
        elif before is not None and coverage.failed > 0:
            await self._publish_failures(collection)

    async def _read_coverage(self, collection: Collection) -> Coverage:
        problems = await self._problems.get(collection)
        return replace(await self._store.coverage(collection), problems=problems)

    async def _publish_failures(self, collection: Collection) -> None:
        since = self._failures_until[collection.id]
        for failure in await reads.failures_since(self._store, collection, since):
            self._failures_until[collection.id] = failure.failed_at
            view = schemas.Failure.of(collection.name, failure)
            self._broadcaster.publish(
                "failure_added",
                collection.name,
                {"collection": collection.name, "failure": view.model_dump(mode="json")},
            )


def run_progress_event(run: RunRecord, coverage: schemas.Coverage) -> dict[str, Any]:
    """Return the data of a `run_progress` frame."""
    return {
        "run": schemas.Run.of(run).model_dump(mode="json"),
        "coverage": coverage.model_dump(mode="json"),
    }


def coverage_event(name: str, coverage: schemas.Coverage) -> dict[str, Any]:
    """Return the data of a `coverage_changed` frame."""
    return {"collection": name, "coverage": coverage.model_dump(mode="json")}


def _is_news(
    run: RunRecord, before: Mapping[int, RunRecord] | None, polled_at: datetime | None
) -> bool:
    """Return whether a run is to be published; `before` is None on a first poll with subscribers.

    A client may subscribe and start a short run that ends before this poll. Runs that ended since
    the previous poll are therefore published to new subscribers too.
    """
    if run.state in ACTIVE:
        return True
    if before is None:
        return run.finished_at is not None and polled_at is not None and run.finished_at > polled_at
    return run.id not in before or before[run.id].state != run.state


def _counts(coverage: Coverage) -> tuple[object, ...]:
    """Return the figures that make an event when they change. The clock and the rate do not."""
    return (
        coverage.rows, coverage.embedded, coverage.blank, coverage.pending, coverage.failed,
        coverage.excluded, coverage.in_flight, coverage.workers, coverage.problems,
    )  # fmt: skip
