"""The limiter, on a clock that the tests advance, and once on the real one."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress

import pytest
from tests.unit.fake_time import FakeTime, cancel, granted, start

from backline import errors
from backline.embedders.limiter import WINDOW_S, Limiter, Limits, limited_call

# --- window ---------------------------------------------------------------------------------------


async def test_calls_in_flight_never_exceed_the_window() -> None:
    limiter = FakeTime().limiter(max_concurrency=3)
    tasks = await start(limiter, 5)
    assert granted(tasks) == [0, 1, 2]
    assert (limiter.snapshot().in_flight, limiter.snapshot().waiting) == (3, 2)
    limiter.release()
    await asyncio.sleep(0)
    assert granted(tasks) == [0, 1, 2, 3]
    limiter.release()
    limiter.release()
    await asyncio.sleep(0)
    assert granted(tasks) == [0, 1, 2, 3, 4]
    assert limiter.snapshot().in_flight == 2


async def test_small_call_does_not_overtake_a_large_one() -> None:
    fake = FakeTime()
    limiter = fake.limiter(tokens_per_minute=100)
    await start(limiter, 1, tokens=60)
    large = await start(limiter, 1, tokens=50)
    small = await start(limiter, 1, tokens=1)
    assert granted([*large, *small]) == []
    await fake.advance(WINDOW_S)
    assert granted([*large, *small]) == [0, 1]


async def test_429_halves_the_window_which_grows_by_one_a_round() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=8)
    limiter.defer(1.0)
    assert limiter.snapshot().window == 4
    await fake.advance(1.0)
    tasks = await start(limiter, 100)
    assert limiter.snapshot().in_flight == 4
    for _ in range(4):
        limiter.release()
        limiter.succeeded()
    await asyncio.sleep(0)
    assert limiter.snapshot().window == 4  # 4.94: the fourth success of a growing window is short
    limiter.release()
    limiter.succeeded()
    assert limiter.snapshot().window == 5
    for _ in range(60):
        limiter.release()
        limiter.succeeded()
    assert limiter.snapshot().window == 8
    await cancel(tasks)


async def test_unused_window_does_not_grow() -> None:
    limiter = FakeTime().limiter(max_concurrency=8)
    limiter.unavailable()
    for _ in range(50):
        limiter.succeeded()
    assert limiter.snapshot().window == 4


async def test_window_never_falls_below_one() -> None:
    limiter = FakeTime().limiter(max_concurrency=8)
    for _ in range(10):
        limiter.unavailable()
    assert limiter.snapshot().window == 1


async def test_concurrent_failures_halve_the_window_once() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=8)
    fail = asyncio.Event()

    async def call() -> None:
        async with limiter.slot(1):
            await fail.wait()
        limiter.defer(None)

    calls = [asyncio.create_task(call()) for _ in range(8)]
    await fake.settle()
    fail.set()
    await asyncio.gather(*calls)
    assert limiter.snapshot().window == 4
    assert limiter.snapshot().blocked_for_s == pytest.approx(1.0)

    await fake.advance(1.0)
    await asyncio.create_task(call())  # started after the halving, so it counts
    assert limiter.snapshot().window == 2
    assert limiter.snapshot().blocked_for_s == pytest.approx(2.0)


# --- pauses ---------------------------------------------------------------------------------------


async def test_retry_after_pauses_all_calls_for_exactly_that_time() -> None:
    fake = FakeTime()
    limiter = fake.limiter()
    limiter.defer(7.5)
    tasks = await start(limiter, 2)
    assert limiter.snapshot().blocked_for_s == 7.5
    await fake.advance(7.49)
    assert granted(tasks) == []
    await fake.advance(0.01)
    assert granted(tasks) == [0, 1]
    assert limiter.snapshot().blocked_for_s == 0


async def test_shorter_retry_after_does_not_shorten_a_longer_one() -> None:
    limiter = FakeTime().limiter()
    limiter.defer(9.0)
    limiter.defer(2.0)
    assert limiter.snapshot().blocked_for_s == 9.0


async def test_deferral_extends_the_wait_of_queued_calls() -> None:
    fake = FakeTime()
    limiter = fake.limiter()
    limiter.defer(2.0)
    tasks = await start(limiter, 1)
    await fake.advance(1.0)
    limiter.defer(5.0)
    await fake.advance(4.9)
    assert granted(tasks) == []
    await fake.advance(0.2)
    assert granted(tasks) == [0]


@pytest.mark.parametrize("named", [None, 0.0])
async def test_default_pauses_double_to_a_limit_and_reset_on_success(
    named: float | None,
) -> None:
    fake = FakeTime()
    limiter = fake.limiter()
    pauses = []
    for _ in range(7):
        limiter.defer(named)
        pauses.append(limiter.snapshot().blocked_for_s)
        await fake.advance(limiter.snapshot().blocked_for_s)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    limiter.succeeded()
    limiter.defer(named)
    assert limiter.snapshot().blocked_for_s == 1


async def test_first_server_error_pauses_briefly() -> None:
    fake = FakeTime()
    limiter = fake.limiter()
    limiter.unavailable()
    assert limiter.snapshot().blocked_for_s == 0.25
    await fake.advance(0.25)
    limiter.unavailable()
    assert limiter.snapshot().blocked_for_s == 0.5


async def test_jitter_shortens_default_pauses_by_up_to_half() -> None:
    fake = FakeTime()
    limiter = Limiter(clock=fake.clock, sleep=fake.sleep, jitter=lambda: 0.0)
    limiter.defer(None)
    assert limiter.snapshot().blocked_for_s == 0.5


# --- budgets --------------------------------------------------------------------------------------


async def test_requests_a_minute_are_limited() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=100, requests_per_minute=2)
    await start(limiter, 1)
    await fake.advance(10)
    tasks = await start(limiter, 3)
    assert granted(tasks) == [0]
    await fake.advance(49.9)
    assert granted(tasks) == [0]
    await fake.advance(0.1)
    assert granted(tasks) == [0, 1]
    await fake.advance(10)
    assert granted(tasks) == [0, 1, 2]
    assert fake.sleeps == [50, 10]  # no more wake-ups than needed


async def test_tokens_a_minute_are_limited_and_an_oversized_call_runs_alone() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=100, tokens_per_minute=100)
    tasks = await start(limiter, 1, tokens=1)
    tasks += await start(limiter, 2, tokens=500)
    assert granted(tasks) == [0]
    await fake.advance(WINDOW_S)
    assert granted(tasks) == [0, 1]
    await fake.advance(WINDOW_S)
    assert granted(tasks) == [0, 1, 2]


async def test_limits_in_headers_apply_to_queued_calls() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=100, requests_per_minute=1)
    tasks = await start(limiter, 2)
    assert granted(tasks) == [0]
    limiter.observe(Limits(requests=500, requests_remaining=499, tokens=1000))
    await asyncio.sleep(0)
    assert granted(tasks) == [0], "a higher limit of the provider does not lift the user's"
    await cancel(tasks)

    learning = fake.limiter(max_concurrency=100)
    learning.observe(Limits(requests=3, tokens=1000))
    learning.observe(Limits(tokens=900))
    assert learning.snapshot().requests_per_minute == 3
    assert learning.snapshot().tokens_per_minute == 900
    assert granted(await start(learning, 4)) == [0, 1, 2]


async def test_use_by_other_clients_counts() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=100)
    await start(limiter, 1)
    limiter.observe(Limits(requests=10, requests_remaining=2, requests_reset_s=30))
    tasks = await start(limiter, 4)  # of 10, this limiter used 1 and other clients 7
    assert granted(tasks) == [0, 1]
    await fake.advance(30)
    assert granted(tasks) == [0, 1, 2, 3]


async def test_outdated_headers_have_no_effect() -> None:
    limiter = FakeTime().limiter(max_concurrency=100)
    await start(limiter, 3)
    limiter.observe(Limits(requests=5, requests_remaining=4, requests_reset_s=60))
    assert granted(await start(limiter, 3)) == [0, 1]


# --- cancellation ---------------------------------------------------------------------------------


async def test_cancelled_waiter_leaks_nothing_and_unblocks_the_next() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=1, tokens_per_minute=100)
    holder = await start(limiter, 1, tokens=10)
    waiting = await start(limiter, 2, tokens=90)
    await cancel(waiting[:1])
    limiter.release()
    await asyncio.sleep(0)
    assert granted(holder) == [0]
    assert granted(waiting) == [1]
    assert limiter.snapshot().in_flight == 1
    assert limiter.snapshot().tokens_last_minute == 100


async def test_waiter_cancelled_on_its_grant_returns_the_slot() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=1)
    await start(limiter, 1)
    waiting = await start(limiter, 2, tokens=5)
    limiter.release()  # grants the first waiter, which has not run yet
    waiting[0].cancel()
    await fake.settle()
    assert waiting[0].cancelled()
    assert granted(waiting) == [1]
    assert limiter.snapshot().in_flight == 1
    assert limiter.snapshot().tokens_last_minute == 6
    assert limiter.snapshot().requests_last_minute == 2


async def test_waiter_being_cancelled_is_skipped() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=1)
    await start(limiter, 1)
    waiting = await start(limiter, 2)
    waiting[0].cancel()
    limiter.release()  # before the cancelled task has run
    await fake.settle()
    assert granted(waiting) == [1]
    assert limiter.snapshot().in_flight == 1


async def test_cancelled_large_waiter_unblocks_a_small_one() -> None:
    fake = FakeTime()
    limiter = fake.limiter(tokens_per_minute=100)
    await start(limiter, 1, tokens=60)
    waiting = await start(limiter, 1, tokens=50) + await start(limiter, 1, tokens=40)
    assert granted(waiting) == []
    await cancel(waiting[:1])
    assert granted(waiting) == [1]


async def test_slot_is_released_if_the_call_raises() -> None:
    limiter = FakeTime().limiter()
    with pytest.raises(ConnectionError):
        async with limiter.slot(5) as slot:
            assert (slot.tokens, limiter.snapshot().in_flight) == (5, 1)
            raise ConnectionError
    assert limiter.snapshot().in_flight == 0


async def test_no_task_remains_after_the_last_waiter() -> None:
    limiter = FakeTime().limiter()
    limiter.defer(100)
    tasks = await start(limiter, 3)
    await cancel(tasks)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert limiter.snapshot().waiting == 0


def test_window_of_zero_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Limiter(max_concurrency=0)


# --- outcomes of calls ---


async def fail(limiter: Limiter, error: Exception) -> None:
    with pytest.raises(type(error)):
        async with limited_call(limiter, 1):
            raise error


async def test_a_limited_call_reports_its_outcome_and_raises_the_error() -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=8)
    await fail(limiter, errors.RateLimitedError("slow down", retry_after=3))
    assert (limiter.snapshot().window, limiter.snapshot().blocked_for_s) == (4, 3)
    await fake.advance(3)
    await fail(limiter, errors.ProviderUnavailableError("no response"))
    assert limiter.snapshot().window == 2
    assert limiter.snapshot().blocked_for_s > 0
    assert limiter.snapshot().in_flight == 0


async def test_an_outage_of_an_interactive_call_pauses_no_other_call() -> None:
    limiter = FakeTime().limiter(max_concurrency=8)
    with pytest.raises(errors.ProviderUnavailableError):
        async with limited_call(limiter, 1, interactive=True):
            raise errors.ProviderUnavailableError("no response")
    assert (limiter.snapshot().window, limiter.snapshot().blocked_for_s) == (8, 0)


@pytest.mark.parametrize("error", [None, errors.InputRejectedError("no such text")])
async def test_the_window_recovers_with_every_response(error: Exception | None) -> None:
    """A rejection is a response too, so the request rate is not the problem."""
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=4)
    await fail(limiter, errors.RateLimitedError("slow down", retry_after=1))
    await fake.advance(1)

    async def call() -> None:
        with suppress(errors.InputRejectedError):
            async with limited_call(limiter, 1):
                await asyncio.sleep(0)
                if error is not None:
                    raise error

    await asyncio.gather(*(call() for _ in range(60)))
    assert limiter.snapshot().window == 4


# --- the real clock -------------------------------------------------------------------------------


async def test_limits_hold_on_the_real_clock() -> None:
    limiter = Limiter(max_concurrency=2)
    in_flight = peak = 0

    async def call() -> float:
        nonlocal in_flight, peak
        async with limiter.slot(1) as slot:
            in_flight, peak = in_flight + 1, max(peak, in_flight + 1)
            await asyncio.sleep(0.01)
            in_flight -= 1
        limiter.succeeded()
        return slot.waited_s

    limiter.defer(0.1)
    began = time.monotonic()
    waits = await asyncio.gather(*(call() for _ in range(6)))
    assert time.monotonic() - began >= 0.1 + 3 * 0.01 - 0.002
    assert min(waits) >= 0.099
    assert peak <= 2
    assert not math.isinf(limiter.snapshot().blocked_for_s)
