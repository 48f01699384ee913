"""Retries of database calls, and the decisions about provider errors."""

from __future__ import annotations

import asyncio
import time

import pytest

from backline import errors
from backline.types import Job
from backline.worker import embed
from backline.worker.backlog import PendingText
from backline.worker.embed import ProviderFaults
from backline.worker.retry import backoff, retry_while_unavailable


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record pauses and skip them. The clock advances by each pause."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr("backline.worker.retry.time.monotonic", lambda: sum(slept))
    return slept


class Call:
    """A database call that fails with each of these errors, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    async def __call__(self) -> str:
        if self.failures:
            raise self.failures.pop(0)
        return "result"


def locked(times: int) -> list[Exception]:
    return [errors.ContentionError(str(n)) for n in range(times)]


async def test_call_is_retried_with_growing_pauses(pauses: list[float]) -> None:
    call = Call(errors.DatabaseUnavailableError(), *locked(7))
    assert await retry_while_unavailable(call) == "result"
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


async def test_last_error_is_raised_after_the_last_pause(pauses: list[float]) -> None:
    assert await retry_while_unavailable(Call(*locked(2)), (0.1, 0.3)) == "result"
    with pytest.raises(errors.ContentionError, match="2"):
        await retry_while_unavailable(Call(*locked(4)), (0.1, 0.3))
    assert pauses == [0.1, 0.3, 0.1, 0.3]


async def test_error_is_raised_after_the_time_limit(pauses: list[float]) -> None:
    with pytest.raises(errors.ContentionError, match="4"):
        await retry_while_unavailable(Call(*locked(9)), give_up_after=0.5)
    assert pauses == [0.05, 0.1, 0.2, 0.4]


async def test_attempt_without_a_result_fails_at_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backline.worker.retry.SHORTEST_LIMIT", 0.05)

    async def hang() -> None:
        await asyncio.sleep(60)

    for give_up_after in (0, 0.1):
        with pytest.raises(errors.DatabaseUnavailableError, match="has not answered"):
            async with asyncio.timeout(5):
                await retry_while_unavailable(hang, give_up_after=give_up_after)


async def test_timeout_inside_a_call_is_not_taken_for_the_time_limit() -> None:
    with pytest.raises(TimeoutError, match="inside"):
        await retry_while_unavailable(Call(TimeoutError("inside")), give_up_after=60)


async def test_other_errors_are_not_retried(pauses: list[float]) -> None:
    with pytest.raises(errors.RowRefusedError):
        await retry_while_unavailable(Call(errors.RowRefusedError()))
    with pytest.raises(errors.DatabaseUnavailableError):
        await retry_while_unavailable(
            Call(errors.DatabaseUnavailableError()), retried=(errors.ContentionError,)
        )
    assert pauses == []


def test_backoff_is_bounded() -> None:
    assert max(pause for pause, _ in zip(backoff(), range(50), strict=False)) == 2.0


def batch(size: int, attempts: int = 0) -> list[PendingText]:
    return [
        PendingText(b"", "text", jobs=[Job(str(n), "embed", "text", b"", attempts, 1)])
        for n in range(size)
    ]


def test_failing_batch_is_retried_then_split() -> None:
    faults, texts = ProviderFaults(None), batch(4)
    assert [faults.failed(texts) for _ in range(3)] == ["retry", "retry", "split"]


def test_single_text_is_recorded_only_if_others_passed_meanwhile() -> None:
    faults, [text] = ProviderFaults(None), batch(1)
    assert {faults.failed([text]) for _ in range(5)} == {"retry"}
    faults.accepted()
    assert faults.failed([text]) == "record"


def test_text_that_failed_in_an_earlier_round_is_recorded_at_once() -> None:
    assert ProviderFaults(None).failed(batch(1, attempts=1)) == "record"


def test_provider_that_rejects_every_text_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "REJECTIONS_BEFORE_GIVING_UP", 3)
    error = errors.InputRejectedError("wrong model")
    faults, working = ProviderFaults(None), ProviderFaults(None)
    working.accepted()
    for _ in range(2):
        faults.rejected(error)
    for _ in range(9):
        working.rejected(error)
    with pytest.raises(errors.ProviderRefusedError, match="each of the first 3 texts"):
        faults.rejected(error)


def test_first_request_without_a_response_counts_from_its_start() -> None:
    error = errors.ProviderUnavailableError("no response")
    ProviderFaults(10).unanswered(error, time.monotonic())
    with pytest.raises(errors.ProviderUnavailableError, match="nothing for 60 s"):
        ProviderFaults(10).unanswered(error, time.monotonic() - 60)


def test_provider_without_success_for_too_long_is_unavailable() -> None:
    faults, error = ProviderFaults(-1), errors.RateLimitedError("slow down")
    with pytest.raises(errors.ProviderUnavailableError, match="its last error: slow down"):
        faults.unanswered(error)
