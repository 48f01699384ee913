"""Embed the batches of the backlog, hand the vectors to the writer, and deal with failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

from backline import errors, pgvector
from backline.store import Usage
from backline.types import Action, Vectors
from backline.worker import batching
from backline.worker.backlog import Backlog, PendingText, Rejection
from backline.worker.batch_handler import EmbeddedBatch, StoredBatch
from backline.worker.confirm import Confirmation
from backline.worker.send import NothingHeldError, Sender
from backline.worker.stats import Outage, WorkerStats
from backline.worker.writer import Write, Writer

# After this many server errors a batch is halved: one of its texts may be the cause.
FAULTS_BEFORE_SPLITTING: Final = 3
# After this many texts were rejected one by one, and none accepted, the texts are not at fault.
REJECTIONS_BEFORE_GIVING_UP: Final = 25
# Longest wait, in seconds, before a text that failed with a server error is tried again.
LONGEST_RETRY: Final = 60


class ProviderFaults:
    """Decides whether the provider or a text is at fault, from the outcomes of all batches."""

    def __init__(self, give_up_after: float | None) -> None:
        self._outage = Outage(give_up_after)
        self._accepted_at = 0.0
        self._rejections: int | None = 0  # texts rejected one at a time; None after a success

    def accepted(self) -> None:
        """Record a batch that was embedded."""
        self._accepted_at = time.monotonic()
        self._outage.end()
        self._rejections = None

    def answered(self) -> None:
        """Record a response that shows that the provider works."""
        self._outage.end()

    def unanswered(self, error: errors.EmbedderError, began: float | None = None) -> None:
        """Record a request, sent at the time `began`, that the provider deferred or failed.

        Raises:
            ProviderUnavailableError: it has embedded nothing for `give_up_after` seconds.
        """
        if (seconds := self._outage.overdue(began)) is not None:
            raise errors.ProviderUnavailableError(
                f"The provider has embedded nothing for {seconds:.0f} s; its last error: {error}. "
                "Nothing is lost: run the same command again when it is back."
            )

    def rejected(self, error: errors.EmbedderError) -> None:
        """Record a single text that was rejected.

        Raises:
            ProviderRefusedError: the provider has rejected every text so far.
        """
        if self._rejections is None:
            return
        self._rejections += 1
        if self._rejections >= REJECTIONS_BEFORE_GIVING_UP:
            raise errors.ProviderRefusedError(
                f"The provider rejected each of the first {self._rejections} texts, one by one, "
                f"and accepted none: {error}. Check the model and the base URL; then send the "
                "dead letters again with: backline failures retry."
            )

    def failed(self, batch: Sequence[PendingText]) -> Literal["retry", "split", "record"]:
        """Record a server error, and return what to do with the batch."""
        now = time.monotonic()
        for text in batch:
            text.faults_since = text.faults_since or now
            text.faults += 1
        first = batch[0]
        # A text that failed while others passed, in this round or in an earlier one, is the cause.
        failed_before = first.attempts > 0
        suspect = failed_before or self._accepted_at > first.faults_since
        allowed = 1 if failed_before else FAULTS_BEFORE_SPLITTING
        if len(batch) == 1 and suspect and first.faults >= allowed:
            return "record"
        if len(batch) > 1 and first.faults >= FAULTS_BEFORE_SPLITTING:
            return "split"
        return "retry"


class EmbedLoop:
    """Takes batches from the backlog and embeds them. `concurrency` loops run at the same time."""

    def __init__(
        self,
        sender: Sender,
        backlog: Backlog,
        writer: Writer,
        confirmation: Confirmation,
        stats: WorkerStats,
        *,
        give_up_after: float | None,
        on_taken: Callable[[], None],
    ) -> None:
        self._sender = sender
        self._backlog = backlog
        self._writer = writer
        self._confirmation = confirmation
        self._stats = stats
        self._faults = ProviderFaults(give_up_after)
        self._on_taken = on_taken

    async def run(self) -> None:
        """Embed until the backlog is closed.

        Raises:
            ProviderRefusedError: the provider refuses every request.
            ProviderUnavailableError: it has embedded nothing for `give_up_after` seconds.
        """
        while (batch := await self._backlog.next_batch()) is not None:
            self._on_taken()
            await self._embed(batch)

    async def _embed(self, batch: list[PendingText]) -> None:
        """Embed a batch, and act on the outcome."""
        began = None
        try:
            async with self._sender.turn(batch) as held:
                batch, began = held, time.monotonic()
                result = await self._sender.send(held)
        except NothingHeldError:
            return
        except errors.RateLimitedError as error:
            self._faults.unanswered(error, began)
            await self._backlog.put_back(batch)
        except errors.InputRejectedError as error:
            await self._rejected(batch, error)
        except errors.ProviderRefusedError:
            raise
        except errors.EmbedderError as error:
            await self._failed(batch, error, began)
        else:
            self._faults.accepted()
            match result:
                case EmbeddedBatch(vectors):
                    await self._write(batch, vectors)
                case StoredBatch():
                    for text in await self._confirmation.finish(batch, result):
                        await self._embed([text])

    # --- success ---

    async def _write(self, batch: Sequence[PendingText], vectors: Vectors) -> None:
        """Hand vectors to the writer, each with every row that has the text."""
        usage = Usage(
            1, sum(text.tokens for text in batch), sum(text.long for text in batch),
            sum(bool(text.whole.passages) for text in batch),
        )  # fmt: skip
        writes: list[Write] = []
        for at, (text, encoded) in enumerate(
            zip(batch, pgvector.vector_elements(vectors), strict=True)
        ):
            if text.part_of is None:
                text.encoded = encoded
                writes += self._writes(text)
                continue
            if text.part_of.passages:
                text.encoded = encoded
                if text.part_of.finish_passages():
                    writes += self._writes(text.part_of)
                continue
            text.vector = vectors[at]
            if (mean := text.part_of.mean()) is not None:
                text.part_of.encoded = pgvector.vector_elements(mean)[0]
                writes += self._writes(text.part_of)
        await self._writer.put(writes, usage)

    def _writes(self, text: PendingText) -> list[Write]:
        """Return one write for each row of the text."""
        if text.long:
            self._stats.add_long([job.key for job in text.jobs])
        writes = []
        action: Action = "embed"
        for job in text.jobs:
            writes.append(Write.embedded(text, job, action))
            action = "reuse"  # only the first row of a text counts as paid
        return writes

    # --- failure ---

    async def _rejected(self, batch: list[PendingText], error: errors.EmbedderError) -> None:
        """Find the rejected text by halving the batch, and record it."""
        self._faults.answered()
        if len(batch) > 1:
            await self._split(batch)
            return
        await self._record(batch[0], "rejected", error, retry_in=None)
        self._faults.rejected(error)

    async def _failed(
        self, batch: list[PendingText], error: errors.EmbedderError, began: float | None
    ) -> None:
        """Retry a batch that got a server error or no response; split it if a text is the cause."""
        self._faults.unanswered(error, began)
        match self._faults.failed(batch):
            case "retry":
                await self._backlog.put_back(batch)
            case "split":
                await self._split(batch)
            case "record":
                [text] = batch
                text.faults, text.faults_since = 0, 0.0
                retry_in = min(LONGEST_RETRY, 2.0**text.attempts)
                await self._record(text, "unavailable", error, retry_in=retry_in)

    async def _split(self, batch: list[PendingText]) -> None:
        for half in batching.bisect(range(len(batch))):
            await self._embed([batch[i] for i in half])

    async def _record(
        self, text: PendingText, kind: str, error: Exception, *, retry_in: float | None
    ) -> None:
        """Record every row of a text as failed. Rows that join the text later fail with it."""
        text = text.whole
        if text.rejection is not None:  # another part of the text has failed as well
            return
        text.rejection = Rejection.of(kind, error, retry_in)
        await self._writer.put([Write.rejected(text, job, text.rejection) for job in text.jobs])
