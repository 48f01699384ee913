"""Threads that take the most urgent work first, and the packing of texts into sub-batches."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from backline.errors import ProviderUnavailableError

T = TypeVar("T")

URGENT, NORMAL, _LAST = 0, 1, 2

_RECTANGLE = 1.5
"""Padding is cheap where attention is: at 32 tokens a text it is an eighth of the work."""

_EVEN_ROUNDS = 4
"""With more sub-batches a stream than this, idling at the end costs less than small ones."""

_MIN_BATCH_TOKENS = 128
"""Below this the weights are read from memory more often than the even spread gains."""

_Entry = tuple[int, int, "Future[Any] | None", Callable[[], Any]]


class PriorityExecutor:
    """A fixed number of threads over one priority queue; equal priorities run in order.

    A search waits for at most one sub-batch that already runs, never for the thousands that a
    backfill has queued. A cancelled future's work is dropped unrun.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._queue: queue.PriorityQueue[_Entry] = queue.PriorityQueue()
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T], priority: int = NORMAL) -> Future[T]:
        """Queue `work`; the future holds what it returns or raises.

        Raises:
            ProviderUnavailableError: the executor is closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise ProviderUnavailableError("This embedder is closed. Open it again.")
            self._queue.put((priority, next(self._order), future, work))
        return future

    def close(self) -> None:
        """Finish what is queued, then end the threads. Blocking; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._queue.put((_LAST, next(self._order), None, lambda: None))
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            _priority, _order, future, work = self._queue.get()
            if future is None:
                return
            if future.set_running_or_notify_cancel():
                _complete(future, work)
            del future, work  # an idle thread must not keep the last batch alive


def _complete(future: Future[T], work: Callable[[], T]) -> None:
    try:
        result = work()
    except BaseException as error:  # the waiter gets it, whatever it is
        future.set_exception(error)
    else:
        future.set_result(result)


def pack(lengths: Sequence[int], batch_tokens: int, streams: int = 1) -> list[list[int]]:
    """Indices of texts in sub-batches of similar length, longest first.

    A sub-batch holds at most `batch_tokens` tokens, and at most `_RECTANGLE` times as many places
    in the rectangle that attention needs, or it holds one text. Work is cut evenly over `streams`,
    so that none idles while another computes the last large one.
    """
    budget = _even_budget(sum(lengths), batch_tokens, streams)
    batches: list[list[int]] = []
    tokens = width = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        places = (len(batches[-1]) + 1) * width if batches else 0
        if not batches or tokens + length > budget or places > _RECTANGLE * batch_tokens:
            batches.append([])
            tokens, width = 0, length
        batches[-1].append(index)
        tokens += length
    return batches


def _even_budget(tokens: int, batch_tokens: int, streams: int) -> int:
    """The sub-batch size, at most `batch_tokens`, that divides `tokens` evenly over the streams."""
    rounds = max(1, -(-tokens // (batch_tokens * streams)))
    if rounds > _EVEN_ROUNDS:
        return batch_tokens
    even = -(-tokens // (rounds * streams))
    return min(batch_tokens, max(even, _MIN_BATCH_TOKENS))
