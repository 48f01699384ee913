"""Stores vectors by group commit: what arrives during one transaction goes into the next.

The UPDATE itself is in `backline.complete`, in sql/schema/functions/write.sql.

A single edit is written at once. Under load a transaction grows until it takes `TARGET_SECONDS`:
a user who edits one of its rows waits that long for the lock. A write to a side table locks no row
of the source, so that it may take longer and spread its fixed cost over more rows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from backline import errors, pgvector
from backline.store import NO_USAGE, JobStore, NewVector, Usage
from backline.types import Action, Collection, FailedAttempt, Job, Outcome
from backline.worker import batching
from backline.worker.backlog import PendingText, Rejection
from backline.worker.lease import WorkerLease
from backline.worker.options import WorkerOptions
from backline.worker.retry import retry_while_unavailable
from backline.worker.tasks import end_tasks

TARGET_SECONDS: Final = 0.040
SIDE_TABLE_SECONDS: Final = 0.150
SMALLEST: Final = 16
LARGEST: Final = 4096
# The vectors of a transaction, in bytes. Twice as many spill to files of Postgres.
LARGEST_BYTES: Final = 4 << 20
MOST_WAITING: Final = 2 * LARGEST
LOCKED_RETRY_SECONDS: Final = 0.1
# Consecutive refusals after which the table, and not the single row, is taken to be at fault.
REFUSALS_BEFORE_GIVING_UP: Final = 25


class Write(NamedTuple):
    """One row to write, or to record as failed, and its text if it has one."""

    row: NewVector
    text: PendingText | None = None
    failure: FailedAttempt | None = None

    @classmethod
    def embedded(cls, text: PendingText, job: Job, action: Action) -> Write:
        """Return the write that stores the vector of a text, or those of its passages, in a row."""
        passages = tuple(passage.new for passage in text.passages)
        encoded = text.encoded or pgvector.NULL
        row = NewVector(job.key, action, job.content_hash, encoded, job.lease, text.long, passages)
        return cls(row, text)

    @property
    def vectors(self) -> int:
        """The vectors that it stores, at least 1."""
        return max(1, len(self.row.passages))

    @classmethod
    def rejected(cls, text: PendingText, job: Job, rejection: Rejection) -> Write:
        """Return the write that records a failed row."""
        failure = FailedAttempt(job.key, text.content_hash, *rejection, lease=job.lease)
        return cls(
            NewVector(job.key, job.action, text.content_hash, lease=job.lease), text, failure
        )


class Writer:
    """Writes queued rows. Start `run` as a task.

    Two loops write, so that one transaction computes while the other waits for the disk.
    """

    LOOPS: Final = 2

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        lease: WorkerLease,
        options: WorkerOptions,
        *,
        run: int | None,
        cache: bool,
        on_processed: Callable[[Sequence[Write]], None],
        on_all_locked: Callable[[], None],
    ) -> None:
        self._store = store
        self._collection = collection
        self._lease = lease
        self._options = options
        self._run = run
        self._cache = cache
        self._on_processed = on_processed
        self._on_all_locked = on_all_locked
        self._queue: deque[Write] = deque()
        self._usage = NO_USAGE
        self._largest = min(LARGEST, LARGEST_BYTES // (4 * collection.model.dimensions))
        self._limit = min(256, self._largest)
        self._target = SIDE_TABLE_SECONDS if collection.into else TARGET_SECONDS
        self._refusals = 0
        self._open = 0  # rows in a transaction, or waiting for their lock
        self._wake = asyncio.Condition()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._notifying: set[asyncio.Future[None]] = set()

    async def put(self, writes: Sequence[Write], usage: Usage = NO_USAGE) -> None:
        """Queue rows. Waits while `MOST_WAITING` rows are queued, which bounds memory."""
        self._usage += usage
        if not writes:  # the usage is stored with the next write
            return
        await self._room.wait()
        self._queue.extend(writes)
        self._idle.clear()
        if len(self._queue) > MOST_WAITING:
            self._room.clear()
        await self._notify()

    async def drain(self) -> None:
        """Wait until every queued row is stored."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled, or until one of the write loops fails."""
        loops = [asyncio.create_task(self._write_loop()) for _ in range(self.LOOPS)]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failures = await end_tasks(*loops)
        raise failures[0]

    async def _write_loop(self) -> None:
        while True:
            async with self._wake:
                await self._wake.wait_for(lambda: bool(self._queue))
            await self._write_some()

    async def _write_some(self) -> None:
        writes = self._take()
        usage, self._usage = self._usage, NO_USAGE
        self._open += len(writes)
        started = time.monotonic()
        locked = await self._write(writes, usage)
        self._adapt(sum(write.vectors for write in writes), time.monotonic() - started)
        if locked:
            self._retry_later(locked)
            keys = {write.row.key for write in locked}
            writes = [write for write in writes if write.row.key not in keys]
        if writes:
            self._open -= len(writes)
            self._on_processed(writes)
        else:
            self._on_all_locked()
        if len(self._queue) <= MOST_WAITING:
            self._room.set()
        if not self._open and not self._queue:
            self._idle.set()

    def _take(self) -> list[Write]:
        """Return the next rows, with at most `_limit` vectors unless one row has more."""
        writes = [self._queue.popleft()]
        vectors = writes[0].vectors
        while self._queue and (vectors := vectors + self._queue[0].vectors) <= self._limit:
            writes.append(self._queue.popleft())
        return writes

    async def _write(self, writes: Sequence[Write], usage: Usage) -> list[Write]:
        """Store vectors and record failures. Returns the writes to retry later."""
        failed = [write for write in writes if write.failure is not None]
        vectors = [write for write in writes if write.failure is None] if failed else writes
        retried = await self._store_vectors(vectors, usage)
        return retried + await self._record_failures(failed) if failed else retried

    async def _store_vectors(self, writes: Sequence[Write], usage: Usage) -> list[Write]:
        if not writes:
            return []
        try:
            outcomes = await retry_while_unavailable(
                partial(self._commit, writes, usage), give_up_after=self._options.give_up_after
            )
        except (errors.RowRefusedError, errors.StatementTimeoutError) as error:
            return await self._store_halves(writes, usage, error)
        if any(outcome == "unstable" for _, outcome in outcomes):
            await self._count_unstable(len(writes), outcomes)
        elif len(outcomes) < len(writes):
            self._refusals = 0
        locked = {key for key, outcome in outcomes if outcome == "busy"}
        return [write for write in writes if write.row.key in locked] if locked else []

    async def _store_halves(
        self, writes: Sequence[Write], usage: Usage, error: errors.DatabaseError
    ) -> list[Write]:
        """Store half the rows at a time: a row was refused, or the transaction took too long."""
        if len(writes) == 1:
            return [self._refused(writes[0], error)]
        left, right = batching.bisect(range(len(writes)))
        retried = await self._store_vectors([writes[i] for i in left], usage)
        return retried + await self._store_vectors([writes[i] for i in right], NO_USAGE)

    async def _count_unstable(self, written: int, outcomes: Sequence[tuple[str, Outcome]]) -> None:
        """Count rows that change whenever their vector is stored.

        Raises:
            RowRefusedError: it happens to every row, which would be paid for in vain.
        """
        self._refusals = self._refusals * (written == len(outcomes)) + sum(
            outcome == "unstable" for _, outcome in outcomes
        )
        if self._refusals < REFUSALS_BEFORE_GIVING_UP:
            return
        async for failure in self._store.failures(self._collection):
            if failure.kind == "unstable":
                raise errors.RowRefusedError(failure.error)

    def _refused(self, write: Write, error: errors.DatabaseError) -> Write:
        """Return the write that records the row as refused by Postgres.

        Raises:
            DatabaseError: the failure is not the row's, or cannot be recorded without a text.
        """
        self._refusals += 1
        if (
            isinstance(error, errors.StatementTimeoutError)
            or write.row.content_hash is None
            or self._refusals >= REFUSALS_BEFORE_GIVING_UP
        ):
            raise error
        failure = FailedAttempt(
            write.row.key, write.row.content_hash, "refused", str(error), None, write.row.lease
        )
        return write._replace(failure=failure)

    async def _record_failures(self, writes: Sequence[Write]) -> list[Write]:
        attempts = [write.failure for write in writes if write.failure is not None]
        locked = await retry_while_unavailable(
            lambda: self._store.fail(self._collection, self._lease.worker, self._run, attempts),
            give_up_after=self._options.give_up_after,
        )
        return [write for write in writes if write.row.key in locked]

    async def _commit(self, writes: Sequence[Write], usage: Usage) -> list[tuple[str, Outcome]]:
        return await self._store.complete(
            self._collection,
            self._lease.worker,
            self._run,
            [write.row for write in writes],
            cache=self._cache,
            usage=usage,
        )

    def _adapt(self, written: int, seconds: float) -> None:
        """Adapt the size of the next transaction to the duration of the last one."""
        if seconds > 1.5 * self._target:
            self._limit = max(SMALLEST, self._limit * 3 // 4)
        elif seconds < self._target and written == self._limit:
            growth = 2 if seconds < self._target / 4 else 1.25
            self._limit = min(self._largest, int(self._limit * growth))

    def _retry_later(self, writes: list[Write]) -> None:
        """Queue rows again after a pause, because an open transaction has locked them."""
        asyncio.get_running_loop().call_later(LOCKED_RETRY_SECONDS, self._requeue, writes)

    def _requeue(self, writes: list[Write]) -> None:
        self._open -= len(writes)
        self._queue.extend(writes)
        task = asyncio.ensure_future(self._notify())
        self._notifying.add(task)
        task.add_done_callback(self._notifying.discard)

    async def _notify(self) -> None:
        async with self._wake:
            self._wake.notify()
