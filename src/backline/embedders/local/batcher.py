"""Sub-batches that the texts of all callers share, so that the streams compute full ones.

A caller's texts seldom fill a whole number of sub-batches. Computed by themselves, what is left
over makes small ones, which take longer a token, or all of the caller's are smaller than is fast: a
backfill of captions lost a tenth to that.
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

_RECTANGLE: Final = 1.5
"""Padding is cheap where attention is: at 32 tokens a text it is an eighth of the work."""

_SMALLEST: Final = 128
"""Tokens below which the weights are read from memory more often than the even spread gains."""


class Part(NamedTuple):
    """What a sub-batch has of one call: positions of texts in it."""

    call: Call
    positions: list[int]


class Call:
    """Texts that wait for their vectors together, longest first."""

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
        """Positions of the next texts that fit into `batch`, which are taken by this."""
        first = self.taken
        while self.taken < len(self.order):
            length = len(self.texts[self.order[self.taken]])
            if not batch.add(length):
                break
            self.taken += 1
            self.tokens -= length
        return self.order[first : self.taken]

    def settle(self, error: BaseException | None = None) -> None:
        """Answer the caller, unless it has left or was answered before."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            if error is None:
                self.future.set_result(self.vectors)
            else:
                self.future.set_exception(error)


class SubBatch:
    """The sub-batch that is being filled, as running sums."""

    __slots__ = ("_count", "_places", "_tokens", "_total", "_width")

    def __init__(self, tokens: int, places: float) -> None:
        """Take `tokens`, and so many `places` in the rectangle that attention needs."""
        self._tokens = tokens
        self._places = places
        self._count = self._total = self._width = 0

    def add(self, length: int) -> bool:
        """Count in a text of `length` tokens, if it fits or is the first."""
        width = max(self._width, length)
        if self._count and (
            self._total + length > self._tokens or (self._count + 1) * width > self._places
        ):
            return False
        self._count, self._total, self._width = self._count + 1, self._total + length, width
        return True


class Batcher:
    """Computes the texts of any number of callers, first come, first served.

    A stream that is free takes the next texts, longest first, of the call that has waited longest,
    and goes on with the next call's where these do not fill a sub-batch of `batch_tokens`.
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
        self._calls: deque[Call] = deque()
        self._busy = 0  # streams that compute, or are asked to
        self._share: int | None = None

    def add(self, texts: Sequence[TokenIds]) -> Future[Vectors]:
        """Vectors of `texts`, in order. Cancelling the future drops those that wait.

        Raises:
            ProviderUnavailableError: the executor is closed.
        """
        call = Call(texts, self._dimensions)
        if not texts:
            call.settle()
            return call.future
        with self._lock:
            for _ in range(min(len(texts), self._streams - self._busy)):
                self._executor.submit(self._compute_next, self._priority)
                self._busy += 1
            self._calls.append(call)
            self._share = None
        return call.future

    def _compute_next(self) -> None:
        """Compute one sub-batch, and queue for the next one behind what is more urgent."""
        if parts := self._next_parts():
            self._compute(parts)
            self._executor.go_on(self._compute_next, self._priority)

    def _next_parts(self) -> list[Part]:
        """The texts of the next sub-batch; with none, the stream that asks is free."""
        with self._lock:
            self._calls = deque(call for call in self._calls if not call.future.done())
            batch, parts = SubBatch(self._budget(), _RECTANGLE * self._batch_tokens), list[Part]()
            while self._calls:
                call = self._calls[0]
                if positions := call.take(batch):
                    parts.append(Part(call, positions))
                if call.taken < len(call.order):
                    break
                self._calls.popleft()
            self._busy -= not parts
            return parts

    def _budget(self) -> int:
        """Tokens of the next sub-batch: the last ones are even, so that no stream idles long."""
        waiting = sum(call.tokens for call in self._calls)
        if waiting > self._batch_tokens * self._streams:
            return self._batch_tokens
        if self._share is None:
            even = -(-waiting // self._streams)
            self._share = min(self._batch_tokens, max(even, _SMALLEST))
        return self._share

    def _compute(self, parts: Sequence[Part]) -> None:
        try:
            vectors = self._forward([call.texts[at] for call, places in parts for at in places])
            done = 0
            for call, positions in parts:
                call.vectors[positions] = vectors[done : done + len(positions)]
                done += len(positions)
        except BaseException as error:  # the caller gets it, whatever it is
            self._failed(parts, error)
        else:
            self._finished(parts)

    def _failed(self, parts: Sequence[Part], error: BaseException) -> None:
        """Whose text it was is not known: only a call that fails by itself is told."""
        if len(parts) > 1:
            for part in parts:
                self._compute([part])
            return
        with self._lock:
            parts[0].call.settle(error)

    def _finished(self, parts: Sequence[Part]) -> None:
        with self._lock:
            for call, positions in parts:
                call.unfinished -= len(positions)
                if call.unfinished == 0:
                    call.settle()
