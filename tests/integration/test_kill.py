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
from tests.integration.harness import World, eventually, overpaid, running
from tests.provider import StandInProvider

ROOT = Path(__file__).parents[2]


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(1, count + 1)]


@asynccontextmanager
async def process(
    world: World, provider: StandInProvider, mode: str, *flags: str
) -> AsyncIterator[Process]:
    """A worker in a process of its own, killed at the end if it still lives."""
    url = world.store.connector.conninfo
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


async def paid_but_not_stored(world: World, provider: StandInProvider) -> set[str]:
    rows = await world.sql("select body from notes where embedding is not null")
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
async def test_a_backfill_killed_at_a_step(
    world: World, provider: StandInProvider, step: str
) -> None:
    await world.insert(*texts(60))
    await world.sql("delete from backline.jobs where key::int > 30")  # half are found by the walk
    await world.sql(
        "insert into backline.counter_deltas values (%s, 'rows', 0, 1)", world.collection.id
    )
    async with process(world, provider, "backfill", "--pause", step) as victim:
        assert await line(victim) == "ready"
        assert await line(victim) == "paused"
        victim.kill()
        await victim.wait()
    await world.store.recount(world.collection.id)
    await world.check_consistent_except_unqueued()
    await world.sql("update backline.runs set started_at = started_at - interval '2 minutes'")
    in_flight = await paid_but_not_stored(world, provider)
    report = await world.fill()
    assert report.coverage.complete
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight
    states = await world.sql("select state from backline.runs order by id")
    # From the recount on, the fill is done, and only the report is missing.
    first = "completed" if step == "recount:before" else "interrupted"
    assert [row["state"] for row in states] == [first, "completed"]


async def test_a_backfill_killed_during_the_call(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(60))
    with provider.held():
        async with process(world, provider, "backfill") as victim:
            await asyncio.to_thread(provider.wait_in_flight, timeout=60)
            victim.kill()
            await victim.wait()
        held = await world.sql("select 1 from backline.jobs where worker_id is not null")
        assert held
    await eventually(lambda: provider.in_flight == 0, "the held calls to be answered")
    in_flight = set(provider.texts_embedded)
    report = await world.fill()
    assert report.embedded == 60
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight


@pytest.mark.parametrize("step", ["fail:before", "fail:after"])
async def test_a_backfill_killed_while_it_reports_a_failure(
    world: World, provider: StandInProvider, step: str
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", *texts(30))
    async with process(world, provider, "backfill", "--pause", step) as victim:
        await line(victim)
        assert await line(victim) == "paused"
    in_flight = await paid_but_not_stored(world, provider)
    await world.fill()
    await world.check_complete(dead=["1"])
    assert overpaid(provider).keys() <= in_flight


@pytest.mark.parametrize("step", ["claim:after", "complete:before", "complete:after"])
async def test_a_sync_killed_at_a_step_is_replaced_at_once(
    world: World, provider: StandInProvider, step: str
) -> None:
    """Its leases would last for 20 s more; the lock that died with its connection frees them."""
    async with process(world, provider, "sync", "--pause", step) as victim:
        await line(victim)
        if step != "claim:after":
            await eventually_registered(world)
        await world.insert(*texts(10))
        assert await line(victim) == "paused"
    in_flight = await paid_but_not_stored(world, provider)
    async with world.syncing():
        await world.wait_until_idle(within=15)
    await eventually_reaped(world)
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight


async def eventually_reaped(world: World) -> None:
    """Postgres notices a cut connection when it next reads from it, not at once."""

    async def reaped() -> bool:
        await world.store.release_dead_workers(world.collection)
        return not await world.sql("select 1 from backline.workers")

    await eventually(reaped, "the dead worker to be reaped")


async def eventually_registered(world: World) -> None:
    async def registered() -> bool:
        return bool(await world.sql("select 1 from backline.workers"))

    await eventually(registered, "the worker to be registered")


async def test_users_go_on_editing_while_a_worker_is_killed(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(40))
    with provider.held():
        async with process(world, provider, "backfill") as victim:
            await asyncio.to_thread(provider.wait_in_flight, timeout=60)
            await world.sql("update notes set body = 'edited ' || id where id <= 10")
            await world.sql("delete from notes where id > 30")
            victim.kill()
            await victim.wait()
            await world.sql("update notes set body = 'edited again ' || id where id <= 5")
    await eventually(lambda: provider.in_flight == 0, "the held calls to be answered")
    await world.check_consistent()
    in_flight = set(provider.texts_embedded)
    await world.fill()
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight


async def test_two_backfills_and_a_sync_at_once_pay_for_no_text_twice(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(600))
    provider.behave(delay_s=0.02)
    async with (
        process(world, provider, "sync"),
        process(world, provider, "backfill") as one,
        process(world, provider, "backfill") as two,
    ):
        for other in (one, two):
            assert await line(other) == "ready"
        async with running(edits(world)) as editing:
            reports = [json.loads(await line(other)) for other in (one, two)]
            await editing
        await world.wait_until_idle()
        assert [report["state"] for report in reports] == ["completed", "completed"]
    await eventually_reaped(world)
    await world.check_complete()
    assert overpaid(provider) == {}


async def edits(world: World) -> None:
    for n in range(1, 60):
        await world.sql("update notes set body = %s where id = %s", f"edited {n}", n * 7)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
async def test_a_worker_whose_clock_is_a_day_off(
    world: World, provider: StandInProvider, seconds: float
) -> None:
    """Leases, retries and rates go by the clock of the database, or of nobody."""
    provider.fail_next(429, times=2, retry_after=0.2)
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", *texts(100))
    provider.behave(delay_s=0.05)
    async with (
        process(world, provider, "backfill", "--skew", str(seconds)) as wrong,
        process(world, provider, "backfill") as right,
    ):
        reports = []
        for other in (wrong, right):
            await line(other)
            reports.append(json.loads(await line(other)))
    assert [report["state"] for report in reports] == ["completed", "completed"]
    await world.check_complete(dead=["1"])
    assert overpaid(provider) == {}
