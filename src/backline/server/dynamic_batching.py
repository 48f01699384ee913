"""Dynamic batching: concurrent calls to a model are computed as one batch.

A call to an idle model starts at once. Calls that arrive while the model computes are collected
and form the next batch, so a single caller never waits for others.

A model that batches across calls itself receives each call directly. Collected calls would all end
together, and the model would idle until their callers send again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from backline import errors
from backline.embedders.base import Embedder
from backline.types import Purpose, Vectors

# Two batches at a time, so that one is computed while the other's vectors are returned.
CONCURRENCY: Final = 2
MAX_TEXTS: Final = 256
# Smaller batches make poor use of the model.
MIN_SHARE: Final = 8
MAX_WAITING: Final = 10_000


@dataclass(eq=False, slots=True)
class _Call:
    texts: Sequence[str]
    result: asyncio.Future[Vectors] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class DynamicBatcher:
    """Batches the calls to one embedder for one purpose.

    With `pass_through` the embedder batches itself, and calls are forwarded one by one.
    """

    def __init__(
        self,
        embedder: Embedder,
        purpose: Purpose,
        concurrency: int = CONCURRENCY,
        *,
        pass_through: bool = False,
    ) -> None:
        self._embedder = embedder
        self._purpose = purpose
        self._concurrency = concurrency
        self._pass_through = pass_through
        self._calls: deque[_Call] = deque()
        self._waiting = 0
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed as `Embedder.embed` does. A cancelled call is left out of its batch.

        Raises:
            OverloadedError: too many texts are waiting.
            EmbedderError: as raised by the embedder.
        """
        if self._waiting and self._waiting + len(texts) > MAX_WAITING:
            raise errors.OverloadedError(
                f"{self._waiting:,} texts are waiting to be embedded; the limit is "
                f"{MAX_WAITING:,}. Send the request again later."
            )
        self._waiting += len(texts)
        return await (self._forward(texts) if self._pass_through else self._enqueue(texts))

    async def aclose(self) -> None:
        """Finish the calls that are waiting."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(self, texts: Sequence[str]) -> Vectors:
        try:
            return await self._embedder.embed(texts, purpose=self._purpose)
        finally:
            self._waiting -= len(texts)

    async def _enqueue(self, texts: Sequence[str]) -> Vectors:
        call = _Call(texts)
        self._calls.append(call)
        if len(self._tasks) < self._concurrency:
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await call.result

    async def _run(self) -> None:
        while calls := self._next_batch():
            try:
                await self._embed(calls)
            finally:
                self._in_flight -= sum(len(call.texts) for call in calls)

    def _next_batch(self) -> list[_Call]:
        """Take the calls of the next batch: at least one, at most one task's share of the texts.

        A task that took every waiting call would leave the others nothing to compute.
        """
        batch: list[_Call] = []
        size = 0
        share = max(MIN_SHARE, -(-(self._waiting + self._in_flight) // self._concurrency))
        limit = min(MAX_TEXTS, share)
        while self._calls and (not batch or size + len(self._calls[0].texts) <= limit):
            call = self._calls.popleft()
            self._waiting -= len(call.texts)
            if not call.result.cancelled():
                batch.append(call)
                size += len(call.texts)
        self._in_flight += size
        return batch

    async def _embed(self, calls: Sequence[_Call]) -> None:
        texts = [text for call in calls for text in call.texts]
        try:
            vectors = await self._embedder.embed(texts, purpose=self._purpose)
        except errors.InputRejectedError as error:
            await self._embed_separately(calls, error)
        except Exception as error:
            for call in calls:
                _fail(call, error)
        else:
            start = 0
            for call in calls:
                end = start + len(call.texts)
                if not call.result.done():
                    call.result.set_result(vectors[start:end])
                start = end

    async def _embed_separately(self, calls: Sequence[_Call], error: Exception) -> None:
        """Embed each call alone, so that a rejected text fails only its own call."""
        if len(calls) == 1:
            _fail(calls[0], error)
            return
        for call in calls:
            await self._embed([call])


def _fail(call: _Call, error: Exception) -> None:
    if not call.result.done():
        call.result.set_exception(error)
