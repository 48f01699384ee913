"""What a worker does with a batch of texts: embed it here, or have another process embed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from backline.embedders.base import Embedder
from backline.types import Job, LongText, Model, Vectors
from backline.worker.backlog import PendingText, Rejection, cut_to_fit, too_long


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """The vectors of a batch, float32 of shape (texts, dimensions), for the worker to write."""

    vectors: Vectors


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """What another process reports of the rows that it was sent.

    Attributes:
        source: the name of that process, for messages.
        sent: every row of the request, with its text.
        skipped: reasons by key, of rows that were changed or deleted meanwhile.
        failed: errors by key. A row that is in neither mapping is stored.
    """

    source: str
    sent: list[tuple[PendingText, Job]]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]


BatchResult: TypeAlias = EmbeddedBatch | StoredBatch


class BatchHandler(Protocol):
    """Prepares texts and handles batches of them. Makes one attempt and never sleeps."""

    @property
    def model(self) -> Model:
        """The model of the vectors."""
        ...

    @property
    def free(self) -> bool:
        """True where a vector is cheaper to compute again than to look up in a cache."""
        ...

    def prepare(self, texts: Sequence[PendingText], long_text: LongText) -> None:
        """Count tokens, and cut or reject texts that are longer than the model reads.

        Blocks while it tokenizes: call it in a thread.
        """
        ...

    async def handle(self, batch: Sequence[PendingText]) -> BatchResult:
        """Embed a batch.

        Raises:
            EmbedderError: one of the four, for the whole batch.
        """
        ...


class EmbedBatches:
    """Embeds batches with an embedder. The worker writes the vectors."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def model(self) -> Model:
        """The model of the embedder."""
        return self._embedder.model

    @property
    def free(self) -> bool:
        """Whether the embedder's vectors cost nothing worth caching."""
        return self._embedder.free

    def prepare(self, texts: Sequence[PendingText], long_text: LongText) -> None:
        """Count tokens, and treat long texts as the collection declares."""
        tokens = self._embedder.count_tokens([each.text for each in texts])
        for each, count in zip(texts, tokens, strict=True):
            each.tokens, each.long = count, count > self._embedder.model.max_tokens
        long = [each for each in texts if each.long]
        if long_text == "reject":
            for each in long:
                each.rejection = Rejection.of("too long", too_long(each, self._embedder))
        else:
            cut_to_fit(long, self._embedder, long_text)

    async def handle(self, batch: Sequence[PendingText]) -> BatchResult:
        """Embed a batch with one call."""
        return EmbeddedBatch(await self._embedder.embed([each.text for each in batch]))
