from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.embedders.local.scheduling import NORMAL, URGENT, PriorityExecutor, pack
from backline.errors import ProviderUnavailableError


@given(st.lists(st.integers(2, 256), max_size=300), st.integers(1, 8))
def test_every_text_is_in_exactly_one_batch_within_the_budget(
    lengths: list[int], streams: int
) -> None:
    batches = pack(lengths, 1_024, streams)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        if len(batch) > 1:
            assert sum(lengths[i] for i in batch) <= 1_024
            assert len(batch) * max(lengths[i] for i in batch) <= 1.5 * 1_024


def test_batches_hold_texts_of_similar_length() -> None:
    batches = pack([10, 250] * 41, 1_024)
    assert all(len(batch) <= 6 for batch in batches if 1 in {i % 2 for i in batch})
    assert max(map(len, batches)) >= 20


def test_small_work_is_divided_over_the_streams() -> None:
    sizes = [len(batch) for batch in pack([27] * 50, 1_024, streams=2)]
    assert sizes == [25, 25]


def test_large_work_fills_its_batches() -> None:
    batches = pack([32] * 1_000, 1_024, streams=2)
    assert {len(batch) for batch in batches[:-1]} == {32}


def test_nothing_packs_into_nothing() -> None:
    assert pack([], 1_024) == []


def test_urgent_work_overtakes_what_waits_and_equals_keep_their_order() -> None:
    executor, gate = PriorityExecutor(1, "test"), threading.Event()
    done: list[str] = []
    futures: list[Future[object]] = [executor.submit(gate.wait)]
    futures += [executor.submit(partial(done.append, name), NORMAL) for name in "abc"]
    futures.append(executor.submit(partial(done.append, "urgent"), URGENT))
    gate.set()
    for future in futures:
        future.result(timeout=5)
    executor.close()
    assert done == ["urgent", "a", "b", "c"]


def test_cancelled_work_is_never_run() -> None:
    executor, gate = PriorityExecutor(1, "test"), threading.Event()
    done: list[str] = []
    executor.submit(gate.wait)
    doomed = executor.submit(lambda: done.append("doomed"))
    assert doomed.cancel()
    gate.set()
    executor.submit(lambda: done.append("next")).result(timeout=5)
    executor.close()
    assert done == ["next"]


def test_errors_reach_the_waiter_and_the_thread_lives_on() -> None:
    executor = PriorityExecutor(1, "test")
    with pytest.raises(ZeroDivisionError):
        executor.submit(lambda: 1 / 0).result(timeout=5)
    assert executor.submit(lambda: 7).result(timeout=5) == 7
    executor.close()


def test_close_finishes_what_is_queued_ends_the_threads_and_refuses_more() -> None:
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
