"""Properties of the limiter that hold in any history of calls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.fake_time import FakeTime, cancel, start

from backline.embedders.limiter import WINDOW_S


@dataclass(frozen=True)
class Step:
    """One call of a random history."""

    tokens: int
    takes: float
    outcome: str
    then_wait: float


histories = st.lists(
    st.builds(
        Step,
        tokens=st.integers(1, 60),
        takes=st.floats(0, 40),
        outcome=st.sampled_from(["ok", "ok", "ok", "429", "down", "cancelled"]),
        then_wait=st.sampled_from([0.0, 0.0, 0.1, 5.0, 30.0]),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(histories, st.integers(1, 5), st.integers(1, 6), st.integers(60, 150))
def test_window_and_limits_hold_in_any_history(
    steps: list[Step], concurrency: int, rpm: int, tpm: int
) -> None:
    asyncio.run(_live_through(steps, concurrency, rpm, tpm))


async def _live_through(steps: list[Step], concurrency: int, rpm: int, tpm: int) -> None:
    fake = FakeTime(now=0.0)
    limiter = fake.limiter(
        max_concurrency=concurrency, requests_per_minute=rpm, tokens_per_minute=tpm
    )
    grants: list[tuple[float, int]] = []

    async def call(step: Step) -> None:
        async with limiter.slot(step.tokens) as slot:
            now = limiter.snapshot()
            # Calls in flight may exceed a window that was just halved, until enough of them end.
            assert now.in_flight <= concurrency
            assert slot.granted == fake.now
            grants.append((fake.now, step.tokens))
            await fake.sleep(step.takes)
        if step.outcome == "429":
            limiter.defer(step.takes)
        elif step.outcome == "down":
            limiter.unavailable()
        else:
            limiter.succeeded()

    tasks = []
    for step in steps:
        tasks.append(asyncio.create_task(call(step)))
        await fake.advance(step.then_wait)
        if step.outcome == "cancelled":
            tasks[-1].cancel()
    while not all(task.done() for task in tasks):
        await fake.advance(60.0)
        assert fake.now < 1e6, "a waiter was lost"
    for task in tasks:
        assert task.cancelled() or task.exception() is None
    assert limiter.snapshot().in_flight == limiter.snapshot().waiting == 0
    for begin, _ in grants:
        within = [tokens for at, tokens in grants if begin <= at < begin + WINDOW_S]
        assert len(within) <= rpm
        assert sum(within) <= tpm


@given(st.lists(st.sampled_from(["grant", "ok", "429", "down"]), max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_slot_is_granted_beyond_a_halved_window(moves: list[str]) -> None:
    asyncio.run(_shrink_and_grow(moves))


async def _shrink_and_grow(moves: list[str]) -> None:
    fake = FakeTime()
    limiter = fake.limiter(max_concurrency=8)
    tasks: list[asyncio.Task[object]] = []
    for move in moves:
        before = limiter.snapshot()
        if move == "grant":
            tasks += await start(limiter, 1)
        elif before.in_flight:
            limiter.release()
            {"ok": limiter.succeeded, "429": limiter.defer, "down": limiter.unavailable}[move]()
            await fake.advance(30)
        after = limiter.snapshot()
        assert 1 <= after.window <= 8
        assert after.in_flight <= max(after.window, before.in_flight)
    await cancel(tasks)
