"""Finish rows that a remote service embedded and stored, after the database has confirmed them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias
from uuid import UUID, uuid4

from backline import errors, pgvector
from backline.store import JobStore, NewVector
from backline.types import Collection, Job
from backline.worker.backlog import PendingText, Rejection
from backline.worker.batch_handler import StoredBatch
from backline.worker.lease import WorkerLease
from backline.worker.options import WorkerOptions
from backline.worker.retry import retry_while_unavailable
from backline.worker.writer import Write, Writer

SentRow: TypeAlias = tuple[PendingText, Job]


class Confirmation:
    """Ends the jobs of rows that a remote service stored, and records rows that it refused."""

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        lease: WorkerLease,
        writer: Writer,
        options: WorkerOptions,
        *,
        run: int | None,
        on_processed: Callable[[Sequence[Write]], None],
    ) -> None:
        self._store = store
        self._collection = collection
        self._lease = lease
        self._writer = writer
        self._options = options
        self._run = run
        self._on_processed = on_processed

    async def finish(self, batch: Sequence[PendingText], report: StoredBatch) -> list[PendingText]:
        """Finish the rows of a batch. Returns the texts to send again, one at a time.

        Only the response to a single text has a status that shows whether the text or the provider
        is at fault. Rows that are stored already cost nothing when they are sent again.
        """
        failed = {id(text) for text, job in report.sent if job.key in report.failed}
        if len(batch) == 1:
            stored = [(text, job) for text, job in report.sent if job.key not in report.failed]
            await self._confirm(stored, report)
            await self._refuse(
                [(text, job) for text, job in report.sent if job.key in report.failed], report
            )
            return []
        await self._confirm([row for row in report.sent if id(row[0]) not in failed], report)
        return [text for text in batch if id(text) in failed]

    async def _confirm(self, rows: Sequence[SentRow], report: StoredBatch) -> None:
        """End the jobs of rows that are stored. Rows that are locked go to the writer.

        Raises:
            ProviderRefusedError: a row is reported as stored, and the database does not have it.
        """
        if not rows:
            return
        new = [
            NewVector(job.key, "up_to_date", job.content_hash, lease=job.lease) for _, job in rows
        ]
        outcomes = dict(
            await retry_while_unavailable(
                partial(self._call_confirm, new, uuid4()),
                give_up_after=self._options.give_up_after,
            )
        )
        for key, outcome in outcomes.items():
            if outcome == "unstored" and key not in report.skipped:
                raise _not_stored(key, report.source)
        writes = [Write(row, text) for row, (text, _) in zip(new, rows, strict=True)]
        locked = [write for write in writes if outcomes.get(write.row.key) == "busy"]
        late = self._late_rows(rows, report)
        self._on_processed([w for w in writes if outcomes.get(w.row.key) != "busy"])
        await self._writer.put(locked + late)

    async def _call_confirm(self, rows: Sequence[NewVector], call: UUID) -> list[tuple[str, str]]:
        """Confirm rows. The same `call` counts once, however often it is repeated."""
        return await self._store.confirm(
            self._collection, self._lease.worker, self._run, rows, call
        )

    async def _refuse(self, rows: Sequence[SentRow], report: StoredBatch) -> None:
        """Record rows that failed although each was sent alone."""
        late = self._late_rows(rows, report)
        refused = [
            Write.rejected(text, job, Rejection.of("refused", report.failed[job.key]))
            for text, job in rows
        ]
        await self._writer.put(late + refused)

    def _late_rows(self, rows: Iterable[SentRow], report: StoredBatch) -> list[Write]:
        """Return the writes of rows that joined a text after it was sent.

        Their vector is in the cache. `encoded` is set to NULL so that JobSorter also lets rows that
        join later reuse it.
        """
        sent = {job.key for _, job in report.sent}
        writes = []
        for text in {id(text): text for text, _ in rows}.values():
            if text.encoded is not None:
                continue
            text.encoded = pgvector.NULL
            writes += [
                Write(NewVector(job.key, "reuse", job.content_hash, lease=job.lease), text)
                for job in text.jobs
                if job.key not in sent
            ]
        return writes


def _not_stored(key: str, source: str) -> errors.ProviderRefusedError:
    return errors.ProviderRefusedError(
        f"The {source} reports row {key} as stored, but this database has no vector of its text: "
        "the remote service works on another database. Give both the same one."
    )
