"""Route claimed jobs to the backlog, or to the writer if no text has to be embedded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from backline.store import JobStore, NewVector
from backline.types import Collection, Job
from backline.worker import batching
from backline.worker.backlog import Backlog, PendingText, Rejection
from backline.worker.batch_handler import BatchHandler
from backline.worker.known import keep_known
from backline.worker.retry import retry_while_unavailable
from backline.worker.writer import Write, Writer

# What `backline.try_text` returns for a row begins with it if the text cannot be computed.
NO_TEXT: Final = "\ue002"


class JobSorter:
    """Routes claimed jobs by their action."""

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        handler: BatchHandler,
        backlog: Backlog,
        writer: Writer,
        *,
        give_up_after: float | None,
    ) -> None:
        self._store = store
        self._give_up_after = give_up_after
        self._collection = collection
        self._handler = handler
        self._backlog = backlog
        self._writer = writer

    async def sort(self, jobs: Sequence[Job], worker: int) -> None:
        """Queue jobs to be written or embedded. Each distinct text is embedded once.

        `worker` is the id under which they were claimed.
        """
        to_embed = [job for job in jobs if job.action == "embed"]
        to_write = [job for job in jobs if job.action != "embed"]
        if to_write:
            rows = [
                NewVector(job.key, job.action, job.content_hash, lease=job.lease)
                for job in to_write
            ]
            await self._writer.put([Write(row) for row in rows])
        new = [job for job in to_embed if not await self._join(job)]
        if new:
            await self._add(new, worker)

    async def _join(self, job: Job) -> bool:
        """Attach a job to its text if the text is pending. Returns whether it is.

        If the text already has a vector or a rejection, the row gets it too.
        """
        text = self._backlog.find(job.content_hash or b"")
        if text is None:
            return False
        text.jobs.append(job)
        text.open_rows += 1
        if text.encoded is not None:
            await self._writer.put([Write.embedded(text, job, "reuse")])
        elif text.rejection is not None:
            await self._writer.put([Write.rejected(text, job, text.rejection)])
        return True

    async def _add(self, jobs: Sequence[Job], worker: int) -> None:
        """Add the distinct texts of jobs to the backlog, and record texts that are too long."""
        texts = _distinct_texts(jobs, worker)
        computed = [text for text in texts if text.rejection is None]
        await asyncio.to_thread(self._handler.prepare, computed, self._collection)
        # Without a cache, a text of one passage has only what the row had as a whole.
        split = [
            (text, [job.key for job in text.jobs])
            for text in computed
            if len(text.passages) > 1 or (text.passages and not self._handler.free)
        ]
        await retry_while_unavailable(
            partial(keep_known, self._store, self._collection, split),
            give_up_after=self._give_up_after,
        )
        accepted = []
        for text in texts:
            if text.rejection is None:
                accepted.append(text)
            else:
                await self._writer.put(
                    [Write.rejected(text, job, text.rejection) for job in text.jobs]
                )
        await self._backlog.add(accepted)
        for text in accepted:
            if not text.to_embed and text.finish_passages():
                await self._writer.put([Write.embedded(text, job, "reuse") for job in text.jobs])


def _distinct_texts(jobs: Sequence[Job], worker: int) -> list[PendingText]:
    firsts, inverse = batching.unique([job.content_hash for job in jobs])
    texts = [
        PendingText(jobs[i].content_hash or b"", jobs[i].content, worker=worker) for i in firsts
    ]
    for job, at in zip(jobs, inverse, strict=True):
        texts[at].jobs.append(job)
        texts[at].open_rows += 1
    for text in texts:
        if text.text.startswith(NO_TEXT):
            text.rejection = Rejection.of(
                "no text",
                f"The text or the condition fails for this row: {text.text[1:]}. Correct the row, "
                "or declare an expression that has a result for every row.",
            )
    return texts
