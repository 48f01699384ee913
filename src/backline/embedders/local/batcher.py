"""Batch texts across concurrent calls into sub-batches of the size that is fastest.

A call rarely fills a whole number of sub-batches, and small ones cost more time a token. Computing
each call alone made a backfill of captions a tenth slower.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, NamedTuple

import numpy as np

from backline.embedders.local.executor import PriorityExecutor
from backline.embedders.local.tokenizers.base import TokenIds
from backline.types import Vectors

Forward = Callable[[Sequence[TokenIds]], Vectors]

_MAX_PADDED: Final = 1.5
"""Limit of a sub-batch's padded size, as a multiple of its tokens. Only attention computes padding;
at 32 tokens a text that is an eighth of the work."""

_MIN_TOKENS: Final = 128
"""Smallest even share of a stream. Below it, reading the weights more often costs more time than
the even division saves."""


class BatchPart(NamedTuple):
    """The texts of one request in a sub-batch, as positions in the request."""

    request: Request
    positions: list[int]


class Request:
    """The texts of one call, sorted by length, longest first."""

    __slots__ = ("future", "order", "taken", "texts", "tokens", "unfinished", "vectors")

    def __init__(self, texts: Sequence[TokenIds], dimensions: int) -> None:
        self.future: Future[Vectors] = Future()
        self.texts = texts
        self.vectors = np.empty((len(texts), dimensions), dtype=np.float32)
        lengths = [len(text) for text in texts]
        self.order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)
        self.taken = 0
        self.tokens = sum(lengths)  # of the texts that no stream has taken
        self.unfinished = len(texts)

    def take(self, batch: SubBatch) -> list[int]:
        """Remove the next texts that fit into `batch`, and return their positions."""
        first = self.taken
        while self.taken < len(self.order):
            length = len(self.texts[self.order[self.taken]])
            if not batch.add(length):
                break
            self.taken += 1
            self.tokens -= length
        return self.order[first : self.taken]

    def finish(self, error: BaseException | None = None) -> None:
        """Resolve the future, unless it is cancelled or resolved already."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            if error is None:
                self.future.set_result(self.vectors)
            else:
                self.future.set_exception(error)


class SubBatch:
    """The size of a sub-batch while it is filled.

    Args:
        max_tokens: limit of the sum of its texts' tokens.
        max_padded: limit of its texts times the longest of them, which is what attention computes.
    """

    __slots__ = ("_count", "_max_padded", "_max_tokens", "_total", "_width")

    def __init__(self, max_tokens: int, max_padded: float) -> None:
        self._max_tokens = max_tokens
        self._max_padded = max_padded
        self._count = self._total = self._width = 0

    def add(self, length: int) -> bool:
        """Add a text of `length` tokens if it fits or is the first; return whether it was added."""
        width = max(self._width, length)
        if self._count and (
            self._total + length > self._max_tokens or (self._count + 1) * width > self._max_padded
        ):
            return False
        self._count, self._total, self._width = self._count + 1, self._total + length, width
        return True


class Batcher:
    """Computes the texts of concurrent requests, first come, first served.

    An idle stream takes the longest remaining texts of the oldest request. If these do not fill a
    sub-batch of `batch_tokens`, it adds texts of the next request.
    """

    def __init__(
        self,
        forward: Forward,
        executor: PriorityExecutor,
        priority: int,
        *,
        streams: int,
        batch_tokens: int,
        dimensions: int,
    ) -> None:
        self._forward = forward
        self._executor = executor
        self._priority = priority
        self._streams = streams
        self._batch_tokens = batch_tokens
        self._dimensions = dimensions
        self._lock = threading.Lock()
        self._requests: deque[Request] = deque()
        self._busy = 0  # streams that compute, or are queued to
        self._share: int | None = None

    def add(self, texts: Sequence[TokenIds]) -> Future[Vectors]:
        """Queue texts; the future holds their vectors, in order.

        Cancelling the future drops the texts that are still waiting.

        Raises:
            ProviderUnavailableError: the executor is closed.
        """
        request = Request(texts, self._dimensions)
        if not texts:
            request.finish()
            return request.future
        with self._lock:
            for _ in range(min(len(texts), self._streams - self._busy)):
                self._executor.submit(self._compute_next, self._priority)
                self._busy += 1
            self._requests.append(request)
            self._share = None
        return request.future

    def _compute_next(self) -> None:
        """Compute one sub-batch, then queue for the next one behind more urgent work."""
        if parts := self._next_parts():
            self._compute(parts)
            self._executor.resubmit(self._compute_next, self._priority)

    def _next_parts(self) -> list[BatchPart]:
        """Take the texts of the next sub-batch; without any, mark this stream as idle."""
        with self._lock:
            self._requests = deque(each for each in self._requests if not each.future.done())
            batch = SubBatch(self._next_size(), _MAX_PADDED * self._batch_tokens)
            parts = list[BatchPart]()
            while self._requests:
                request = self._requests[0]
                if positions := request.take(batch):
                    parts.append(BatchPart(request, positions))
                if request.taken < len(request.order):
                    break
                self._requests.popleft()
            self._busy -= not parts
            return parts

    def _next_size(self) -> int:
        """Return the tokens of the next sub-batch.

        The last round is divided evenly over the streams, so that they finish together.
        """
        waiting = sum(request.tokens for request in self._requests)
        if waiting > self._batch_tokens * self._streams:
            return self._batch_tokens
        if self._share is None:
            even = -(-waiting // self._streams)
            self._share = min(self._batch_tokens, max(even, _MIN_TOKENS))
        return self._share

    def _compute(self, parts: Sequence[BatchPart]) -> None:
        try:
            vectors = self._forward(
                [request.texts[at] for request, positions in parts for at in positions]
            )
            done = 0
            for request, positions in parts:
                request.vectors[positions] = vectors[done : done + len(positions)]
                done += len(positions)
        except BaseException as error:  # every error belongs to the callers
            self._fail(parts, error)
        else:
            self._finish(parts)

    def _fail(self, parts: Sequence[BatchPart], error: BaseException) -> None:
        """Fail the request of a single part. Compute several parts again, one at a time.

        The error does not name the text that caused it, and must not fail the other requests.
        """
        if len(parts) > 1:
            for part in parts:
                self._compute([part])
            return
        with self._lock:
            parts[0].request.finish(error)

    def _finish(self, parts: Sequence[BatchPart]) -> None:
        with self._lock:
            for request, positions in parts:
                request.unfinished -= len(positions)
                if request.unfinished == 0:
                    request.finish()
