"""The interface to embedding batches, here or in a remote service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from backline.embedders.base import Embedder
from backline.passages import Piece, split
from backline.types import Collection, Job, LongText, Model, Splitting, Vectors
from backline.worker import batching
from backline.worker.backlog import PendingText, Rejection


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """The vectors of a batch, float32 of shape (texts, dimensions), for the worker to write."""

    vectors: Vectors


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """The outcome of the rows that were sent to a remote service, as it reports them.

    Attributes:
        source: the name of the service, for messages.
        sent: every row of the request, with its text.
        skipped: reasons by key, of rows that have been changed or deleted.
        failed: errors by key. A row that is in neither mapping is stored.
    """

    source: str
    sent: list[tuple[PendingText, Job]]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]


BatchResult: TypeAlias = EmbeddedBatch | StoredBatch


class BatchHandler(Protocol):
    """Prepares texts, and embeds batches of them. Makes one attempt and never sleeps."""

    @property
    def model(self) -> Model:
        """The model of the vectors."""
        ...

    @property
    def free(self) -> bool:
        """True where a vector is cheaper to compute again than to look up in a cache."""
        ...

    def prepare(self, texts: Sequence[PendingText], collection: Collection) -> None:
        """Count tokens, and split texts, or cut or reject those longer than the model reads.

        Blocks while it tokenizes: call it in a thread.
        """
        ...

    async def handle(self, batch: Sequence[PendingText]) -> BatchResult:
        """Embed a batch.

        Raises:
            EmbedderError: for the whole batch; see `embedders.base` for its four kinds.
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

    def prepare(self, texts: Sequence[PendingText], collection: Collection) -> None:
        """Count tokens, and split, truncate or reject texts as the collection declares."""
        if collection.splitting is not None:
            self._split(texts, collection.splitting)
            return
        tokens = self._embedder.count_tokens([each.text for each in texts])
        for each, count in zip(texts, tokens, strict=True):
            each.tokens, each.long = count, count > self.model.max_tokens
            if each.long:
                self._prepare_long(each, collection.long_text)

    async def handle(self, batch: Sequence[PendingText]) -> BatchResult:
        """Embed a batch with one call."""
        return EmbeddedBatch(await self._embedder.embed([each.text for each in batch]))

    def _split(self, texts: Sequence[PendingText], splitting: Splitting) -> None:
        """Split texts into passages. A text that fits into one is tokenized once."""
        count = self._embedder.count_tokens
        long = []
        for text, tokens in zip(texts, count([each.text for each in texts]), strict=True):
            text.tokens = tokens
            if tokens > splitting.tokens:
                long.append(text)
            else:
                text.split_into([Piece(0, len(text.text))])
        tokens_left = splitting.tokens
        while long and tokens_left >= splitting.tokens // 2:
            long = self._split_long(long, replace(splitting, tokens=tokens_left))
            tokens_left = tokens_left * 7 // 8

    def _split_long(self, texts: Sequence[PendingText], splitting: Splitting) -> list[PendingText]:
        """Split texts into passages. Returns the texts with a passage that the model cannot read.

        The tokens of units do not add up exactly to those of a passage.
        """
        for text in texts:
            text.split_into(split(text.text, splitting, self._embedder.count_tokens))
        parts = [part for text in texts for part in text.parts]
        counts = self._embedder.count_tokens([part.text for part in parts])
        for part, tokens in zip(parts, counts, strict=True):
            part.tokens = tokens
        for text in texts:
            text.tokens = sum(part.tokens for part in text.parts)
        most = self.model.max_tokens
        return [text for text in texts if any(part.tokens > most for part in text.parts)]

    def _prepare_long(self, text: PendingText, long_text: LongText) -> None:
        max_tokens = self.model.max_tokens
        if long_text == "truncate":
            text.text, text.tokens = self._embedder.truncate(text.text), max_tokens
        elif long_text == "average":
            parts = batching.split_text(text.text, max_tokens, self._embedder.truncate)
            text.split(parts, self._embedder.count_tokens(parts))
        else:
            text.rejection = Rejection.of(
                "too long",
                f"The text has {text.tokens:,} tokens, the model reads {max_tokens:,}, and the "
                "collection is declared with --long-text reject. Shorten the text, or declare the "
                "collection anew with --long-text truncate or average.",
            )
