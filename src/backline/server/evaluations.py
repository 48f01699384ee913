"""Runs comparisons of collections in the background of the server."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from backline import errors
from backline.collections import check
from backline.postgres.store import Store
from backline.search import compare
from backline.search.compare import Side
from backline.search.query_sets import QuerySet
from backline.server.embedder_pool import EmbedderPool
from backline.types import Collection
from backline.worker.tasks import end_tasks

log = structlog.get_logger("backline.server")


class Evaluations:
    """The comparisons that this server runs, at most one for each serving collection."""

    def __init__(self, store: Store, pool: EmbedderPool) -> None:
        self._store = store
        self._pool = pool
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._failed: dict[str, str] = {}

    def running(self, collection: Collection) -> bool:
        """Return whether a comparison of the collection is running here."""
        return collection.name in self._running

    def failure(self, collection: Collection) -> str | None:
        """Return why the last comparison that was started here failed."""
        return self._failed.get(collection.name)

    async def start(
        self, serving: Collection, candidate: Collection, asked: QuerySet, *, partial: bool
    ) -> None:
        """Start a comparison, after the checks that need no search.

        Raises:
            RunInProgressError: one of the same collection is running.
            ConfigurationError: the candidate is not complete, or a model cannot be opened.
        """
        await compare.filled(self._store, candidate, partial=partial)
        sides = await self._side(serving), await self._side(candidate)
        if self.running(serving):
            raise errors.RunInProgressError(
                f"An evaluation of {serving.name!r} is running. Wait until it ends."
            )
        self._failed.pop(serving.name, None)
        task = asyncio.create_task(self._run(*sides, asked, partial=partial))
        self._running[serving.name] = task
        task.add_done_callback(lambda _: self._running.pop(serving.name, None))

    async def _side(self, collection: Collection) -> Side:
        check(collection, collection.model, to="read")
        pooled = await self._pool.get(collection.model)
        return Side(collection, pooled.embedder, pooled.limiter)

    async def _run(self, serving: Side, candidate: Side, asked: QuerySet, *, partial: bool) -> None:
        name = serving.collection.name
        try:
            result = await compare.compare(self._store, serving, candidate, asked, partial=partial)
            await compare.store_evaluation(self._store, result)
        except errors.BacklineError as error:
            self._failed[name] = str(error)
            log.warning("evaluation failed", collection=name, error=str(error))
        except Exception:
            self._failed[name] = "This is a bug in Backline. The server's log has details."
            log.exception("bug")

    async def aclose(self) -> None:
        """Cancel what runs. Nothing of an unfinished comparison is stored."""
        await end_tasks(*self._running.values())
