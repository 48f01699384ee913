"""kill -9 of a worker at every step: nothing is lost, and only what was in flight is paid again."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration.harness import World, eventually, overpaid, running, world
from tests.provider import StandInProvider

from backline.postgres.store import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def w(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    async with world(store, provider) as made:
        yield made


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(1, count + 1)]


@asynccontextmanager
async def process(
    w: World, provider: StandInProvider, mode: str, *flags: str
) -> AsyncIterator[Process]:
    """A worker in a process of its own, killed at the end if it still lives."""
    url = w.store.connector.conninfo
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.runner", mode, url, provider.base_url, *flags,
        cwd=ROOT, stdout=PIPE,
    )  # fmt: skip
    try:
        yield made
    finally:
        if made.returncode is None:
            made.kill()
        await made.wait()
        made._transport.close()  # type: ignore[attr-defined]


async def line(of: Process) -> str:
    assert of.stdout is not None
    return (await asyncio.wait_for(of.stdout.readline(), 60)).decode().strip()


async def paid_but_not_stored(w: World, provider: StandInProvider) -> set[str]:
    rows = await w.sql("select body from notes where embedding is not null")
    return set(provider.texts_embedded) - {row["body"] for row in rows}


BACKFILL_STEPS = [
    "start_run:after",
    "register_worker:after",
    "claim:before",
    "claim:after",
    "claim_batch:before",
    "claim_batch:after",
    "complete:before",
    "complete:after",
    "unregister_worker:before",
    "recount:before",
    "finish_run:before",
]


@pytest.mark.parametrize("step", BACKFILL_STEPS)
async def test_a_backfill_killed_at_a_step(w: World, provider: StandInProvider, step: str) -> None:
    await w.insert(*texts(60))
    await w.sql("delete from backline.jobs where key::int > 30")  # half are found by the walk
    await w.sql("insert into backline.counter_deltas values (%s, 'rows', 0, 1)", w.collection.id)
    async with process(w, provider, "backfill", "--pause", step) as victim:
        assert await line(victim) == "ready"
        assert await line(victim) == "paused"
        victim.kill()
        await victim.wait()
    await w.store.recount(w.collection.id)
    await w.check_sound_but_for_missing()
    await w.sql("update backline.runs set started_at = started_at - interval '2 minutes'")
    in_flight = await paid_but_not_stored(w, provider)
    report = await w.fill()
    assert report.coverage.complete
    await w.check_complete()
    assert overpaid(provider).keys() <= in_flight
    states = await w.sql("select state from backline.runs order by id")
    # From the recount on, the fill is done, and only the report is missing.
    first = "completed" if step == "recount:before" else "interrupted"
    assert [row["state"] for row in states] == [first, "completed"]


async def test_a_backfill_killed_during_the_call(w: World, provider: StandInProvider) -> None:
    await w.insert(*texts(60))
    with provider.held():
        async with process(w, provider, "backfill") as victim:
            await asyncio.to_thread(provider.wait_in_flight, timeout=60)
            victim.kill()
            await victim.wait()
        held = await w.sql("select 1 from backline.jobs where worker_id is not null")
        assert held
    await eventually(lambda: provider.in_flight == 0, "the held calls to be answered")
    in_flight = set(provider.texts_embedded)
    report = await w.fill()
    assert report.embedded == 60
    await w.check_complete()
    assert overpaid(provider).keys() <= in_flight


@pytest.mark.parametrize("step", ["fail:before", "fail:after"])
async def test_a_backfill_killed_while_it_reports_a_failure(
    w: World, provider: StandInProvider, step: str
) -> None:
    provider.behave(reject_marker="POISON")
    await w.insert("POISON", *texts(30))
    async with process(w, provider, "backfill", "--pause", step) as victim:
        await line(victim)
        assert await line(victim) == "paused"
    in_flight = await paid_but_not_stored(w, provider)
    await w.fill()
    await w.check_complete(dead=["1"])
    assert overpaid(provider).keys() <= in_flight


@pytest.mark.parametrize("step", ["claim:after", "complete:before", "complete:after"])
async def test_a_sync_killed_at_a_step_is_replaced_at_once(
    w: World, provider: StandInProvider, step: str
) -> None:
    """Its leases would last for 20 s more; the lock that died with its connection frees them."""
    async with process(w, provider, "sync", "--pause", step) as victim:
        await line(victim)
        if step != "claim:after":
            await eventually_registered(w)
        await w.insert(*texts(10))
        assert await line(victim) == "paused"
    in_flight = await paid_but_not_stored(w, provider)
    async with w.following():
        await w.settled(within=15)
    await eventually_reaped(w)
    await w.check_complete()
    assert overpaid(provider).keys() <= in_flight


async def eventually_reaped(w: World) -> None:
    """Postgres notices a cut connection when it next reads from it, not at once."""

    async def reaped() -> bool:
        await w.store.release_dead_workers(w.collection)
        return not await w.sql("select 1 from backline.workers")

    await eventually(reaped, "the dead worker to be reaped")


async def eventually_registered(w: World) -> None:
    async def registered() -> bool:
        return bool(await w.sql("select 1 from backline.workers"))

    await eventually(registered, "the worker to be registered")


async def test_users_go_on_editing_while_a_worker_is_killed(
    w: World, provider: StandInProvider
) -> None:
    await w.insert(*texts(40))
    with provider.held():
        async with process(w, provider, "backfill") as victim:
            await asyncio.to_thread(provider.wait_in_flight, timeout=60)
            await w.sql("update notes set body = 'edited ' || id where id <= 10")
            await w.sql("delete from notes where id > 30")
            victim.kill()
            await victim.wait()
            await w.sql("update notes set body = 'edited again ' || id where id <= 5")
    await eventually(lambda: provider.in_flight == 0, "the held calls to be answered")
    await w.check_sound()
    in_flight = set(provider.texts_embedded)
    await w.fill()
    await w.check_complete()
    assert overpaid(provider).keys() <= in_flight


async def test_two_backfills_and_a_sync_at_once_pay_for_no_text_twice(
    w: World, provider: StandInProvider
) -> None:
    await w.insert(*texts(600))
    provider.behave(delay_s=0.02)
    async with (
        process(w, provider, "sync"),
        process(w, provider, "backfill") as one,
        process(w, provider, "backfill") as two,
    ):
        for other in (one, two):
            assert await line(other) == "ready"
        async with running(edits(w)) as editing:
            reports = [json.loads(await line(other)) for other in (one, two)]
            await editing
        await w.settled()
        assert [report["state"] for report in reports] == ["completed", "completed"]
    await eventually_reaped(w)
    await w.check_complete()
    assert overpaid(provider) == {}


async def edits(w: World) -> None:
    for n in range(1, 60):
        await w.sql("update notes set body = %s where id = %s", f"edited {n}", n * 7)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
async def test_a_worker_whose_clock_is_a_day_off(
    w: World, provider: StandInProvider, seconds: float
) -> None:
    """Leases, retries and rates go by the clock of the database, or of nobody."""
    provider.fail_next(429, times=2, retry_after=0.2)
    provider.behave(reject_marker="POISON")
    await w.insert("POISON", *texts(100))
    provider.behave(delay_s=0.05)
    async with (
        process(w, provider, "backfill", "--skew", str(seconds)) as wrong,
        process(w, provider, "backfill") as right,
    ):
        reports = []
        for other in (wrong, right):
            await line(other)
            reports.append(json.loads(await line(other)))
    assert [report["state"] for report in reports] == ["completed", "completed"]
    await w.check_complete(dead=["1"])
    assert overpaid(provider) == {}
