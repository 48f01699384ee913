from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial

import pytest

from backline.embedders.local.executor import NORMAL, URGENT, PriorityExecutor
from backline.errors import ProviderUnavailableError


def test_urgent_work_overtakes_and_equal_priorities_keep_their_order() -> None:
    executor, gate = PriorityExecutor(1, "test"), threading.Event()
    done: list[str] = []
    futures: list[Future[object]] = [executor.submit(gate.wait)]
    futures += [executor.submit(partial(done.append, name), NORMAL) for name in "abc"]
    futures.append(executor.submit(partial(done.append, "urgent"), URGENT))
    gate.set()
    for future in futures:
        future.result(timeout=60)
    executor.close()
    assert done == ["urgent", "a", "b", "c"]


def test_cancelled_work_is_never_run() -> None:
    executor, gate = PriorityExecutor(1, "test"), threading.Event()
    done: list[str] = []
    executor.submit(gate.wait)
    doomed = executor.submit(lambda: done.append("doomed"))
    assert doomed.cancel()
    gate.set()
    executor.submit(lambda: done.append("next")).result(timeout=60)
    executor.close()
    assert done == ["next"]


def test_error_reaches_the_caller_and_the_thread_survives() -> None:
    executor = PriorityExecutor(1, "test")
    with pytest.raises(ZeroDivisionError):
        executor.submit(lambda: 1 / 0).result(timeout=60)
    assert executor.submit(lambda: 7).result(timeout=60) == 7
    executor.close()


def test_close_finishes_queued_work_and_rejects_more() -> None:
    before = threading.active_count()
    executor = PriorityExecutor(3, "test")
    done: list[int] = []
    for i in range(50):
        executor.submit(partial(done.append, i))
    executor.close()
    executor.close()
    assert sorted(done) == list(range(50))
    assert threading.active_count() == before
    with pytest.raises(ProviderUnavailableError, match="closed"):
        executor.submit(lambda: None)
