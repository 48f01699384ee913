"""Embed edits as they arrive, on NOTIFY over a direct connection, by polling over a pooler."""

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
from backline.problems import watch_problems
from backline.types import Collection
from backline.worker.batch_handler import EmbedBatches
from backline.worker.options import WorkerOptions
from backline.worker.tasks import beside
from backline.worker.worker import Worker

RECONNECT_SECONDS: Final = 1.0
# Interval between two claims over a transaction pooler, which drops notifications.
POLL_WITHOUT_SESSION: Final = 0.1


class Sync:
    """A worker that embeds edits until it is stopped."""

    def __init__(
        self,
        store: Store,
        collection: Collection,
        embedder: Embedder,
        limiter: Limiter,
        options: WorkerOptions,
    ) -> None:
        poll = options.poll if store.capabilities.sessions else POLL_WITHOUT_SESSION
        # An outage of the provider or the database does not end a sync, however long it lasts.
        options = replace(options, give_up_after=None, max_rows=None, poll=poll)
        self._store = store
        self._collection = collection
        self._worker = Worker(store, collection, EmbedBatches(embedder), limiter, options)

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
        await self._store.release_dead_workers(self._collection)
        async with beside(watch_problems(self._store, self._collection)), self._listening():
            await self._worker.follow()

    def _listening(self) -> AbstractAsyncContextManager[None]:
        return beside(self._listen()) if self._store.capabilities.sessions else nullcontext()

    async def _listen(self) -> None:
        """Nudge the worker on every notification. A lost connection is opened again."""
        payload = str(self._collection.id)
        while True:
            with suppress(psycopg.Error, errors.DatabaseError):
                connection = await self._store.connector.dedicated()
                async with connection:
                    await connection.execute("listen backline")
                    self._worker.nudge()  # edits that came without a listener
                    async for notification in connection.notifies():
                        if notification.payload == payload:
                            self._worker.nudge()
            await asyncio.sleep(RECONNECT_SECONDS)
