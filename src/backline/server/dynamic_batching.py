"""Micro-batching: what several callers ask for at the same moment goes to the model together.

No caller is made to wait for others. A call that finds the model idle goes at once; while it works,
calls gather, and go together when it is done. So one caller pays nothing, and many share.

A model that shares its batches between calls by itself gets each as it comes: gathered ones are all
answered at once, and until their callers come back it has less to do.
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

# Two at a time: while the answers of one batch are sent, the other one is computed.
LANES: Final = 2
MOST_TEXTS: Final = 256
# Smaller batches than this make poor use of the model.
LEAST_SHARE: Final = 8
MOST_WAITING: Final = 10_000


@dataclass(eq=False, slots=True)
class _Call:
    texts: Sequence[str]
    done: asyncio.Future[Vectors] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Gatherer:
    """Calls to one embedder for one purpose; with `passes_on`, to one that shares its batches."""

    def __init__(
        self, embedder: Embedder, purpose: Purpose, lanes: int = LANES, *, passes_on: bool = False
    ) -> None:
        self._embedder = embedder
        self._purpose = purpose
        self._lanes = lanes
        self._passes_on = passes_on
        self._calls: deque[_Call] = deque()
        self._waiting = 0
        self._in_flight = 0
        self._workers: set[asyncio.Task[None]] = set()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """As `Embedder.embed`. Work whose caller has gone is dropped.

        Raises:
            OverloadedError: too many texts wait already.
            EmbedderError: as the embedder's.
        """
        if self._waiting and self._waiting + len(texts) > MOST_WAITING:
            raise errors.OverloadedError(
                f"{self._waiting:,} texts are waiting to be embedded; more than {MOST_WAITING:,} "
                "are not taken. Send the request again later."
            )
        self._waiting += len(texts)
        return await (self._pass_on(texts) if self._passes_on else self._gather(texts))

    async def aclose(self) -> None:
        """Finish what was asked for."""
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _pass_on(self, texts: Sequence[str]) -> Vectors:
        try:
            return await self._embedder.embed(texts, purpose=self._purpose)
        finally:
            self._waiting -= len(texts)

    async def _gather(self, texts: Sequence[str]) -> Vectors:
        call = _Call(texts)
        self._calls.append(call)
        if len(self._workers) < self._lanes:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await call.done

    async def _work(self) -> None:
        while calls := self._next():
            try:
                await self._serve(calls)
            finally:
                self._in_flight -= sum(len(call.texts) for call in calls)

    def _next(self) -> list[_Call]:
        """The calls that go together now: always one, and as many more as are a lane's share.

        A lane that took all there is would leave nothing to compute while its answers are sent.
        """
        taken: list[_Call] = []
        size = 0
        share = max(LEAST_SHARE, -(-(self._waiting + self._in_flight) // self._lanes))
        most = min(MOST_TEXTS, share)
        while self._calls and (not taken or size + len(self._calls[0].texts) <= most):
            call = self._calls.popleft()
            self._waiting -= len(call.texts)
            if not call.done.cancelled():
                taken.append(call)
                size += len(call.texts)
        self._in_flight += size
        return taken

    async def _serve(self, calls: Sequence[_Call]) -> None:
        texts = [text for call in calls for text in call.texts]
        try:
            vectors = await self._embedder.embed(texts, purpose=self._purpose)
        except errors.InputRejectedError as error:
            await self._apart(calls, error)
        except Exception as error:
            for call in calls:
                _fail(call, error)
        else:
            start = 0
            for call in calls:
                end = start + len(call.texts)
                if not call.done.done():
                    call.done.set_result(vectors[start:end])
                start = end

    async def _apart(self, calls: Sequence[_Call], error: Exception) -> None:
        """One caller's text was rejected: that is no matter of the others'."""
        if len(calls) == 1:
            _fail(calls[0], error)
            return
        for call in calls:
            await self._serve([call])


def _fail(call: _Call, error: Exception) -> None:
    if not call.done.done():
        call.done.set_exception(error)
