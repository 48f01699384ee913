"""Follows live edits: woken by NOTIFY where the connection has a session, by polling where not."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Final

import psycopg

from backline import errors
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.postgres.store import Store
from backline.types import Collection
from backline.worker.options import WorkerOptions
from backline.worker.tasks import beside
from backline.worker.worker import Worker

RECONNECT_SECONDS: Final = 1.0
# A transaction pooler passes no notifications on, so there the table is asked this often.
POLL_WITHOUT_SESSION: Final = 0.1


class Sync:
    """A worker that never finishes by itself."""

    def __init__(
        self,
        store: Store,
        collection: Collection,
        embedder: Embedder,
        limiter: Limiter,
        options: WorkerOptions,
    ) -> None:
        poll = options.poll if store.connector.has_sessions else POLL_WITHOUT_SESSION
        # Patience has no end here: the provider and the database come back when they come back.
        options = replace(options, give_up_after=None, max_rows=None, poll=poll)
        self._store = store
        self._collection = collection
        self._worker = Worker(store, collection, embedder, limiter, options)

    @property
    def settled(self) -> int:
        """Rows settled since the start."""
        return self._worker.stats.settled

    def stop(self, _why: str = "stopped") -> None:
        self._worker.stop()

    async def run(self) -> None:
        """Follow until `stop`.

        Raises:
            ProviderRefusedError: the provider refuses every request.

        """
        await self._store.release_dead_workers(self._collection)
        async with self._listening():
            await self._worker.follow()

    def _listening(self) -> AbstractAsyncContextManager[None]:
        return beside(self._listen()) if self._store.connector.has_sessions else nullcontext()

    async def _listen(self) -> None:
        """Nudge the worker at every notification; a lost connection is made again."""
        wanted = str(self._collection.id)
        while True:
            with suppress(psycopg.Error, errors.DatabaseError):
                connection = await self._store.connector.dedicated()
                async with connection:
                    await connection.execute("listen backline")
                    self._worker.nudge()  # what came while nobody listened
                    async for notice in connection.notifies():
                        if notice.payload == wanted:
                            self._worker.nudge()
            await asyncio.sleep(RECONNECT_SECONDS)
