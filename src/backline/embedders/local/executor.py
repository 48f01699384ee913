"""A thread pool that runs the most urgent work first."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from backline.errors import ProviderUnavailableError

T = TypeVar("T")

URGENT, NORMAL, _LAST = 0, 1, 2

_Entry = tuple[int, int, "Future[Any] | None", Callable[[], Any]]


class PriorityExecutor:
    """A fixed number of threads over one priority queue. Equal priorities run in order.

    A search waits for at most one running sub-batch, never for the thousands that a backfill has
    queued. The work of a cancelled future is skipped.
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
        """Queue `work`; the future holds its result or error.

        Raises:
            ProviderUnavailableError: the executor is closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise ProviderUnavailableError("This embedder is closed. Open it again.")
            self._queue.put((priority, next(self._order), future, work))
        return future

    def resubmit(self, work: Callable[[], object], priority: int = NORMAL) -> None:
        """Queue `work` from a thread of this executor. A closed executor still runs it."""
        self._queue.put((priority, next(self._order), Future(), work))

    def close(self) -> None:
        """Run the queued work, then end the threads. Blocking and idempotent."""
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
            del future, work  # else an idle thread keeps the last batch in memory


def _complete(future: Future[T], work: Callable[[], T]) -> None:
    try:
        result = work()
    except BaseException as error:  # every error belongs to the caller
        future.set_exception(error)
    else:
        future.set_result(result)
