"""Sub-batches across calls: their contents, and isolation of failing calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backline.embedders.local.batcher import Batcher
from backline.embedders.local.executor import NORMAL, URGENT, PriorityExecutor
from backline.embedders.local.tokenizers.base import TokenIds
from backline.errors import ProviderUnavailableError
from backline.types import Vectors

BATCH_TOKENS = 1_024
POISON = 666


class Streams:
    """A batcher with an engine that blocks until released, and records its sub-batches.

    The vector of a text is its first id.
    """

    def __init__(self, streams: int) -> None:
        self.released = threading.Event()
        self.entered = threading.Semaphore(0)
        self.seen: list[list[int]] = []  # lengths of the texts of each sub-batch
        self.executor = PriorityExecutor(streams, "test")
        self.shared = Batcher(
            self.forward,
            self.executor,
            NORMAL,
            streams=streams,
            batch_tokens=BATCH_TOKENS,
            dimensions=1,
        )

    def forward(self, texts: Sequence[TokenIds]) -> Vectors:
        self.entered.release()
        assert self.released.wait(10)
        self.seen.append([len(text) for text in texts])
        if any(text[0] == POISON for text in texts):
            raise RuntimeError("out of tiles")
        return np.array([[text[0]] for text in texts], dtype=np.float32)

    def occupy(self) -> list[Future[bool]]:
        """Keep every thread busy, so that added texts wait for `released`."""
        count = len(self.executor._threads)
        return [self.executor.submit(lambda: self.released.wait(10), URGENT) for _ in range(count)]

    def add(self, *lengths: int, first: int = 1) -> Future[Vectors]:
        return self.shared.add([text(length, first + at) for at, length in enumerate(lengths)])

    def compute(self, *calls: Sequence[int]) -> list[list[int]]:
        """Return the sub-batches of calls that arrive while all streams are busy."""
        self.occupy()
        futures = [self.add(*lengths) for lengths in calls]
        self.released.set()
        for future in futures:
            future.result(timeout=10)
        return self.seen

    def close(self) -> None:
        self.released.set()
        self.executor.close()


def text(length: int, first: int) -> TokenIds:
    return np.array([first] + [0] * (length - 1), dtype=np.int32)


@pytest.fixture
def one() -> Iterator[Streams]:
    streams = Streams(1)
    yield streams
    streams.close()


@pytest.fixture
def two() -> Iterator[Streams]:
    streams = Streams(2)
    yield streams
    streams.close()


@given(
    st.lists(st.lists(st.integers(1, 1_500), max_size=60), max_size=6),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=60)
def test_each_call_gets_its_vectors_from_sub_batches_within_the_limit(
    calls: list[list[int]], streams: int, held: bool
) -> None:
    shared = Streams(streams)
    if held:
        shared.occupy()
    else:
        shared.released.set()
    futures = [shared.add(*lengths, first=1_000 * n) for n, lengths in enumerate(calls)]
    shared.released.set()
    for n, (lengths, future) in enumerate(zip(calls, futures, strict=True)):
        expected = [[1_000 * n + at] for at in range(len(lengths))]
        assert future.result(timeout=10).tolist() == expected
    shared.close()
    computed = sorted(length for batch in shared.seen for length in batch)
    assert computed == sorted(length for lengths in calls for length in lengths)
    for batch in shared.seen:
        if len(batch) > 1:
            assert sum(batch) <= BATCH_TOKENS
            assert len(batch) * max(batch) <= 1.5 * BATCH_TOKENS


def test_remaining_texts_are_computed_with_the_next_call(one: Streams) -> None:
    """85 texts fill a sub-batch. Without batching, the last two of each call would form one."""
    seen = one.compute([12] * 87, [12] * 87, [12] * 81)
    assert [len(batch) for batch in seen] == [85, 85, 85]


def test_sub_batches_hold_texts_of_similar_length(one: Streams) -> None:
    seen = one.compute([10, 250] * 41)
    assert all(len(batch) <= 6 for batch in seen if 10 in batch and 250 in batch)
    assert max(map(len, seen)) >= 20


def test_small_call_is_divided_over_the_streams(two: Streams) -> None:
    assert [len(batch) for batch in two.compute([27] * 50)] == [25, 25]


def test_large_call_fills_sub_batches_and_ends_evenly(two: Streams) -> None:
    sizes = [len(batch) for batch in two.compute([32] * 136)]
    assert sorted(sizes, reverse=True) == [32, 32, 32, 20, 20]


def test_empty_call_returns_an_empty_matrix(one: Streams) -> None:
    assert one.add().result(timeout=10).shape == (0, 1)


def test_failing_call_does_not_affect_others(one: Streams) -> None:
    """The error does not name its text, so the parts of each call are computed again alone."""
    one.occupy()
    before, poisoned, after = one.add(9), one.add(9, 9, first=POISON), one.add(9, first=5)
    one.released.set()
    assert before.result(timeout=10).tolist() == [[1]]
    assert after.result(timeout=10).tolist() == [[5]]
    with pytest.raises(RuntimeError, match="tiles"):
        poisoned.result(timeout=10)


def test_waiting_texts_of_a_failed_call_are_dropped(one: Streams) -> None:
    one.occupy()
    poisoned, other = one.add(*[1_024] * 9, first=POISON), one.add(1_000)
    one.released.set()
    other.result(timeout=10)
    assert poisoned.exception(timeout=10)
    assert sum(map(len, one.seen)) == 2


def test_waiting_texts_of_a_cancelled_call_are_dropped(one: Streams) -> None:
    gone = one.add(*[1_024] * 9)
    assert one.entered.acquire(timeout=10)
    assert gone.cancel()
    other = one.add(1_000)
    one.released.set()
    other.result(timeout=10)
    assert [len(batch) for batch in one.seen] == [1, 1]
    with pytest.raises(CancelledError):
        gone.result(timeout=10)


def test_result_of_wrong_shape_is_an_error() -> None:
    executor = PriorityExecutor(1, "test")
    shared = Batcher(
        lambda texts: np.zeros((len(texts), 3), dtype=np.float32),
        executor, NORMAL, streams=1, batch_tokens=8, dimensions=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="broadcast"):
        shared.add([text(3, 1)]).result(timeout=10)
    executor.close()


def test_urgent_work_waits_for_at_most_one_sub_batch(one: Streams) -> None:
    passages = one.add(*[1_024] * 5)
    assert one.entered.acquire(timeout=10)
    urgent = one.executor.submit(lambda: len(one.seen), URGENT)
    one.released.set()
    assert urgent.result(timeout=10) == 1
    assert passages.result(timeout=10).shape == (5, 1)


def test_other_work_waits_for_at_most_one_sub_batch_a_stream(two: Streams) -> None:
    """This holds for any number of calls, because a call does not queue each of its sub-batches."""
    two.occupy()
    calls = [two.add(*[1_024] * 5) for _ in range(20)]
    other = two.executor.submit(lambda: len(two.seen), NORMAL)
    two.released.set()
    assert other.result(timeout=10) <= 4
    for call in calls:
        call.result(timeout=10)


def test_close_computes_waiting_texts_and_rejects_more(two: Streams) -> None:
    two.occupy()
    calls = [two.add(*[1_024] * 5) for _ in range(3)]
    closing = threading.Thread(target=two.executor.close)
    closing.start()
    two.released.set()
    closing.join(timeout=10)
    assert not closing.is_alive()
    assert all(call.result(timeout=0).shape == (5, 1) for call in calls)
    with pytest.raises(ProviderUnavailableError, match="closed"):
        two.add(5)
