"""Send batches to be embedded, but no row that the worker does not hold any more.

A process that was stopped past its lease, or cut off from the database, still has its backlog.
Meanwhile another worker may have embedded those rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from backline.embedders.limiter import Limiter, limited_call
from backline.store import JobStore, NewVector
from backline.types import Collection, Job
from backline.worker.backlog import PendingText
from backline.worker.batch_handler import BatchHandler, BatchResult
from backline.worker.lease import WorkerLease
from backline.worker.options import WorkerOptions
from backline.worker.retry import retry_while_unavailable
from backline.worker.writer import Write


class NothingHeldError(Exception):
    """The worker holds no row of a batch any more. No call was made."""


class Sender:
    """Sends batches within the provider's limits."""

    def __init__(self, handler: BatchHandler, limiter: Limiter, held: HeldRows) -> None:
        self._handler = handler
        self._limiter = limiter
        self._held = held

    @asynccontextmanager
    async def turn(self, batch: Sequence[PendingText]) -> AsyncIterator[list[PendingText]]:
        """Wait for the limiter, and yield those texts of a batch that still have rows to embed.

        The rows are checked after the wait, which may outlast a lease.

        Raises:
            NothingHeldError: no text is left.
        """
        async with limited_call(self._limiter, sum(text.tokens for text in batch)):
            yield await self._held.select(batch)

    async def send(self, batch: Sequence[PendingText]) -> BatchResult:
        """Embed a batch; see `BatchHandler.handle`."""
        return await self._handler.handle(batch)


class HeldRows:
    """Drops rows that were claimed under a lost lease and are not held any more."""

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        lease: WorkerLease,
        options: WorkerOptions,
        *,
        on_dropped: Callable[[Sequence[Write]], None],
    ) -> None:
        self._store = store
        self._collection = collection
        self._lease = lease
        self._options = options
        self._on_dropped = on_dropped

    async def select(self, batch: Sequence[PendingText]) -> list[PendingText]:
        """Return the texts of a batch that still have rows to embed.

        Asks the database only after the lease was lost. A row that is not held is left to the
        worker that claims it next, which may be this one.

        Raises:
            NothingHeldError: no text is left.
        """
        wholes = list({id(text.whole): text.whole for text in batch}.values())
        while doubtful := await self._doubtful(wholes):
            await retry_while_unavailable(
                partial(self._check, doubtful), give_up_after=self._options.give_up_after
            )
        needed = [text for text in batch if not text.abandoned]
        if not needed:
            raise NothingHeldError
        return needed

    async def _doubtful(self, texts: Sequence[PendingText]) -> list[PendingText]:
        """Return the texts with rows that were claimed under an earlier lease."""
        worker = await self._lease.ensure()
        return [text for text in texts if text.worker != worker]

    async def _check(self, texts: Sequence[PendingText]) -> None:
        async with self._lease.unchanged() as worker:
            if worker is None:
                return
            rows = [(text, job) for text in texts for job in text.jobs]
            held = await self._store.held(self._collection, worker, [job for _, job in rows])
        lost = {id(job) for (_, job), is_held in zip(rows, held, strict=True) if not is_held}
        for text in texts:
            dropped = [job for job in text.jobs if id(job) in lost]
            text.jobs[:] = [job for job in text.jobs if id(job) not in lost]
            text.worker = worker
            self._on_dropped([Write(_row(job), text) for job in dropped])


def _row(job: Job) -> NewVector:
    return NewVector(job.key, job.action, job.content_hash, lease=job.lease)
