"""The local embedder: texts to vectors on this machine's processor."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from backline.embedders.local.batcher import Batcher
from backline.embedders.local.catalog import ModelInfo
from backline.embedders.local.engines.base import Engine
from backline.embedders.local.executor import NORMAL, URGENT, PriorityExecutor
from backline.embedders.local.tokenizers.base import TextTokenizer, TokenIds
from backline.errors import ProviderUnavailableError
from backline.types import Model, Purpose, Vectors

T = TypeVar("T")

TOKENIZE_TEXTS = 256
"""Texts tokenised in one piece of work: some 10 ms, so that a search never waits longer for it."""

WHOLE_QUERIES = 4
"""Up to this many queries are computed at once on one stream; more are spread over all."""

TOKENISED_TEXTS = 8_192
"""Texts that were counted and are yet to be embedded, whose ids are kept: 8 MB at the most. A
worker counts before it embeds, and tokenising twice would be a twentieth of the work on short
texts."""

QUERY_CACHE_SIZE = 1_024
"""Recent query vectors kept: 1.5 MB at 384 dimensions, and a repeated search costs nothing."""


@dataclass(frozen=True, slots=True)
class LocalInfo:
    """What a local embedder runs on, for `backline model list`.

    Attributes:
        precision: the type of the matrix products, "f32" or "bf16"; results are always float32.
        size_bytes: the model's files on disk.
    """

    name: str
    revision: str
    dimensions: int
    max_tokens: int
    engine: str
    precision: str
    threads: int
    cached: bool
    size_bytes: int


class LocalEmbedder:
    """Implements `backline.embedders.base.Embedder`; made by `open_local`.

    Tokenising and computing happen on the embedder's own threads, never on the event loop.
    Texts for search (purpose "query") overtake passages that wait, and recent ones are remembered.
    """

    free = False
    shares_batches = True

    def __init__(
        self, model: ModelInfo, engine: Engine, tokenizer: TextTokenizer, *, size_bytes: int = 0
    ) -> None:
        self._known = model
        self._engine = engine
        self._tokenizer = tokenizer
        self._size_bytes = size_bytes
        self._executor = PriorityExecutor(engine.streams, f"backline-{model.name}")
        self._batches = {priority: self._shared(priority) for priority in (URGENT, NORMAL)}
        self._queries: OrderedDict[str, Vectors] = OrderedDict()
        self._tokenised: dict[str, TokenIds] = {}
        self._model = Model(
            "local", model.name, model.short_revision, model.dimensions, model.max_tokens
        )

    @property
    def model(self) -> Model:
        return self._model

    def info(self) -> LocalInfo:
        """What this embedder runs on."""
        return LocalInfo(
            name=self._known.name,
            revision=self._known.short_revision,
            dimensions=self._known.dimensions,
            max_tokens=self._known.max_tokens,
            engine=self._engine.name,
            precision=self._engine.precision,
            threads=self._engine.threads,
            cached=True,
            size_bytes=self._size_bytes,
        )

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """See `Embedder.embed`. A text's vector does not depend on what it is embedded with.

        Raises:
            ProviderUnavailableError: the engine failed, or the embedder is closed.
        """
        if purpose == "query":
            return await self._embed_queries(texts)
        ids = await self._passage_ids(texts)
        return await self._compute(ids, NORMAL)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Embedder.count_tokens`; special tokens and the passage prefix are counted."""
        counts, ids = self._tokenizer.count_and_encode(texts, self._known.passage_prefix)
        if len(self._tokenised) + len(texts) > TOKENISED_TEXTS:
            self._tokenised = {}
        self._tokenised.update(zip(texts[:TOKENISED_TEXTS], ids, strict=False))
        return counts

    def truncate(self, text: str) -> str:
        """See `Embedder.truncate`; room is left for special tokens and the passage prefix."""
        beginning = self._tokenizer.truncate(text, self._known.passage_prefix)
        if (ids := self._tokenised.pop(text, None)) is not None:
            self._tokenised[beginning] = ids  # what was read of the whole is the beginning
        return beginning

    async def aclose(self) -> None:
        """Finish what runs, then end the threads. Idempotent."""
        await asyncio.to_thread(self._executor.close)

    async def _embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Look recent queries up and compute the others, each distinct one once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._queries]
        found = {text: self._queries[text] for text in texts if text in self._queries}
        if missing:
            computed = await self._compute_queries(missing)
            found |= dict(zip(missing, computed, strict=True))
        self._remember(found)
        return self._gathered([found[text] for text in texts])

    async def _compute_queries(self, texts: Sequence[str]) -> Vectors:
        """A search's few texts are one piece of work: between two, a passage could slip in."""
        prefix = self._known.query_prefix
        if len(texts) > WHOLE_QUERIES:
            return await self._compute(await self._tokenize(texts, prefix, URGENT), URGENT)
        work = partial(self._encode_and_forward, texts, prefix)
        return (await self._all([work], URGENT))[0]

    def _encode_and_forward(self, texts: Sequence[str], prefix: str) -> Vectors:
        return self._forward(self._tokenizer.encode(texts, prefix))

    def _remember(self, vectors: dict[str, Vectors]) -> None:
        for text, vector in vectors.items():
            self._queries[text] = vector
            self._queries.move_to_end(text)
        while len(self._queries) > QUERY_CACHE_SIZE:
            self._queries.popitem(last=False)

    def _gathered(self, rows: Sequence[Vectors]) -> Vectors:
        return np.array(rows, dtype=np.float32).reshape(len(rows), self._known.dimensions)

    async def _passage_ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of passages, those that were counted lately without tokenising them again."""
        known = {text: self._tokenised.pop(text, None) for text in dict.fromkeys(texts)}
        missing = [text for text, ids in known.items() if ids is None]
        if missing:
            rest = await self._tokenize(missing, self._known.passage_prefix, NORMAL)
            known.update(zip(missing, rest, strict=True))
        return [ids for text in texts if (ids := known[text]) is not None]

    async def _compute(self, ids: Sequence[TokenIds], priority: int) -> Vectors:
        return await asyncio.wrap_future(self._batches[priority].add(ids))

    def _shared(self, priority: int) -> Batcher:
        return Batcher(
            self._forward,
            self._executor,
            priority,
            streams=self._engine.streams,
            batch_tokens=self._engine.batch_tokens,
            dimensions=self._known.dimensions,
        )

    async def _tokenize(self, texts: Sequence[str], prefix: str, priority: int) -> list[TokenIds]:
        starts = range(0, len(texts), TOKENIZE_TEXTS)
        parts = [texts[start : start + TOKENIZE_TEXTS] for start in starts]
        encoded = await self._all(
            [partial(self._tokenizer.encode, part, prefix) for part in parts], priority
        )
        return [row for part in encoded for row in part]

    def _forward(self, ids: Sequence[TokenIds]) -> Vectors:
        try:
            return self._engine.forward(ids)
        except (RuntimeError, MemoryError) as error:
            raise ProviderUnavailableError(
                f"The {self._engine.name} engine failed on {len(ids)} texts: {error}"
            ) from error

    async def _all(self, work: Sequence[Callable[[], T]], priority: int) -> list[T]:
        """Run everything on the executor; when one fails or the caller leaves, drop the rest."""
        futures: list[Future[T]] = []
        try:
            futures += [self._executor.submit(piece, priority) for piece in work]
            return await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
