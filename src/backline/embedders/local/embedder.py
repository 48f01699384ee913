"""The local embedder: computes vectors on this machine's processor."""

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

TEXTS_PER_TOKENIZATION = 256
"""Texts tokenized in one task. It takes about 10 ms, the longest that a search waits for it."""

SINGLE_STREAM_QUERIES = 4
"""Up to this many queries run as one task on one stream. More are spread over all streams."""

TOKEN_CACHE_SIZE = 8_192
"""Texts whose token ids are kept between counting and embedding, at most 8 MB. A worker counts
first; tokenizing short texts twice would add a twentieth to the work."""

QUERY_CACHE_SIZE = 1_024
"""Recent query vectors kept, 1.5 MB at 384 dimensions, so that repeating a search costs nothing."""


@dataclass(frozen=True, slots=True)
class LocalInfo:
    """The model and the engine of a local embedder, for `backline model list`.

    Attributes:
        precision: the type of the matrix products, "f32" or "bf16". Vectors are always float32.
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
    """Implements `backline.embedders.base.Embedder`; created by `open_local`.

    The embedder's own threads tokenize and compute, never the event loop. Queries (purpose "query")
    overtake waiting passages, and the vectors of recent queries are cached.
    """

    free = False
    shares_batches = True

    def __init__(
        self, model: ModelInfo, engine: Engine, tokenizer: TextTokenizer, *, size_bytes: int = 0
    ) -> None:
        self._info = model
        self._engine = engine
        self._tokenizer = tokenizer
        self._size_bytes = size_bytes
        self._executor = PriorityExecutor(engine.streams, f"backline-{model.name}")
        self._batchers = {priority: self._batcher(priority) for priority in (URGENT, NORMAL)}
        self._query_cache: OrderedDict[str, Vectors] = OrderedDict()
        self._token_cache: dict[str, TokenIds] = {}
        self._model = Model(
            "local", model.name, model.short_revision, model.dimensions, model.max_tokens
        )

    @property
    def model(self) -> Model:
        return self._model

    def info(self) -> LocalInfo:
        """Return the model and the engine of this embedder."""
        return LocalInfo(
            name=self._info.name,
            revision=self._info.short_revision,
            dimensions=self._info.dimensions,
            max_tokens=self._info.max_tokens,
            engine=self._engine.name,
            precision=self._engine.precision,
            threads=self._engine.threads,
            cached=True,
            size_bytes=self._size_bytes,
        )

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """See `Embedder.embed`. A text's vector does not depend on the other texts of the call.

        Raises:
            ProviderUnavailableError: the engine failed, or the embedder is closed.
        """
        if purpose == "query":
            return await self._embed_queries(texts)
        ids = await self._passage_ids(texts)
        return await self._compute(ids, NORMAL)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Embedder.count_tokens`. Counts include special tokens and the passage prefix."""
        counts, ids = self._tokenizer.count_and_encode(texts, self._info.passage_prefix)
        if len(self._token_cache) + len(texts) > TOKEN_CACHE_SIZE:
            self._token_cache = {}
        self._token_cache.update(zip(texts[:TOKEN_CACHE_SIZE], ids, strict=False))
        return counts

    def truncate(self, text: str) -> str:
        """See `Embedder.truncate`. Leaves room for special tokens and the passage prefix."""
        beginning = self._tokenizer.truncate(text, self._info.passage_prefix)
        if (ids := self._token_cache.pop(text, None)) is not None:
            self._token_cache[beginning] = ids  # both texts have the same first `max_tokens` ids
        return beginning

    async def aclose(self) -> None:
        """Finish the queued work, then end the threads. Idempotent."""
        await asyncio.to_thread(self._executor.close)

    async def _embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return cached vectors, and compute each distinct query that is not cached once."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._query_cache]
        vectors = {text: self._query_cache[text] for text in texts if text in self._query_cache}
        if missing:
            computed = await self._compute_queries(missing)
            vectors |= dict(zip(missing, computed, strict=True))
        self._cache_queries(vectors)
        rows = [vectors[text] for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(rows), self._info.dimensions)

    async def _compute_queries(self, texts: Sequence[str]) -> Vectors:
        """Tokenize and compute a few queries in one task, so that no passage runs in between."""
        prefix = self._info.query_prefix
        if len(texts) > SINGLE_STREAM_QUERIES:
            return await self._compute(await self._tokenize(texts, prefix, URGENT), URGENT)
        task = partial(self._encode_and_forward, texts, prefix)
        return (await self._run_all([task], URGENT))[0]

    def _encode_and_forward(self, texts: Sequence[str], prefix: str) -> Vectors:
        return self._forward(self._tokenizer.encode(texts, prefix))

    def _cache_queries(self, vectors: dict[str, Vectors]) -> None:
        for text, vector in vectors.items():
            self._query_cache[text] = vector
            self._query_cache.move_to_end(text)
        while len(self._query_cache) > QUERY_CACHE_SIZE:
            self._query_cache.popitem(last=False)

    async def _passage_ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the ids of passages, from the token cache for those counted recently."""
        cached = {text: self._token_cache.pop(text, None) for text in dict.fromkeys(texts)}
        missing = [text for text, ids in cached.items() if ids is None]
        if missing:
            rest = await self._tokenize(missing, self._info.passage_prefix, NORMAL)
            cached.update(zip(missing, rest, strict=True))
        return [ids for text in texts if (ids := cached[text]) is not None]

    async def _compute(self, ids: Sequence[TokenIds], priority: int) -> Vectors:
        return await asyncio.wrap_future(self._batchers[priority].add(ids))

    def _batcher(self, priority: int) -> Batcher:
        return Batcher(
            self._forward,
            self._executor,
            priority,
            streams=self._engine.streams,
            batch_tokens=self._engine.batch_tokens,
            dimensions=self._info.dimensions,
        )

    async def _tokenize(self, texts: Sequence[str], prefix: str, priority: int) -> list[TokenIds]:
        starts = range(0, len(texts), TEXTS_PER_TOKENIZATION)
        parts = [texts[start : start + TEXTS_PER_TOKENIZATION] for start in starts]
        encoded = await self._run_all(
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

    async def _run_all(self, tasks: Sequence[Callable[[], T]], priority: int) -> list[T]:
        """Run tasks on the executor. After an error or a cancellation, drop the remaining ones."""
        futures: list[Future[T]] = []
        try:
            futures += [self._executor.submit(task, priority) for task in tasks]
            return await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
