"""A worker killed at any step loses no row, and only texts in flight are embedded again."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.integration.harness import World, eventually, not_stored, overpaid, running, texts
from tests.integration.processes import read_line, worker_process
from tests.provider import StandInProvider

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
async def test_backfill_killed_at_any_step_is_completed_by_the_next_run(
    world: World, provider: StandInProvider, step: str
) -> None:
    await world.insert(*texts(60))
    await world.sql("delete from backline.jobs where key::int > 30")  # the scan finds this half
    await world.sql(
        "insert into backline.counter_deltas values (%s, 'rows', 0, 1)", world.collection.id
    )
    async with worker_process(world, provider, "backfill", "--pause", step) as victim:
        assert await read_line(victim) == "ready"
        assert await read_line(victim) == "paused"
        victim.kill()
        await victim.wait()
    await world.store.recount(world.collection.id)
    await world.check_consistent_except_unqueued()
    await world.sql("update backline.runs set started_at = started_at - interval '2 minutes'")
    in_flight = await not_stored(world, provider.texts_embedded)
    report = await world.fill()
    assert report.coverage.complete
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight
    states = await world.sql("select state from backline.runs order by id")
    # The fill is done before the recount; only the report is missing.
    first = "completed" if step == "recount:before" else "interrupted"
    assert [row["state"] for row in states] == [first, "completed"]


async def test_backfill_killed_during_embedding_is_completed_by_the_next_run(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(60))
    with provider.held():
        async with worker_process(world, provider, "backfill") as victim:
            await asyncio.to_thread(provider.wait_in_flight, timeout=60)
            victim.kill()
            await victim.wait()
        held = await world.sql("select 1 from backline.jobs where worker_id is not null")
        assert held
    await eventually(lambda: provider.in_flight == 0, "the held calls to end")
    in_flight = set(provider.texts_embedded)
    report = await world.fill()
    assert report.embedded == 60
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight


@pytest.mark.parametrize("step", ["fail:before", "fail:after"])
async def test_backfill_killed_while_reporting_a_failure_is_completed_by_the_next_run(
    world: World, provider: StandInProvider, step: str
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", *texts(30))
    async with worker_process(world, provider, "backfill", "--pause", step) as victim:
        await read_line(victim)
        assert await read_line(victim) == "paused"
    in_flight = await not_stored(world, provider.texts_embedded)
    await world.wait_until_disconnected()
    await world.fill()
    await world.check_complete(dead=["1"])
    assert overpaid(provider).keys() <= in_flight


@pytest.mark.parametrize("step", ["claim:after", "complete:before", "complete:after"])
async def test_killed_sync_is_replaced_before_its_leases_expire(
    world: World, provider: StandInProvider, step: str
) -> None:
    """Its leases last 20 s, but its session lock ends at once, with its connection."""
    async with worker_process(world, provider, "sync", "--pause", step) as victim:
        await read_line(victim)
        if step != "claim:after":
            await wait_until_registered(world)
        await world.insert(*texts(10))
        assert await read_line(victim) == "paused"
    in_flight = await not_stored(world, provider.texts_embedded)
    async with world.syncing():
        await world.wait_until_idle(within=15)
    await world.wait_until_released()
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight


async def wait_until_registered(world: World) -> None:
    async def registered() -> bool:
        return bool(await world.sql("select 1 from backline.workers"))

    await eventually(registered, "the worker to be registered")


async def test_edits_around_a_killed_worker_are_embedded(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(40))
    with provider.held():
        async with worker_process(world, provider, "backfill") as victim:
            await asyncio.to_thread(provider.wait_in_flight, timeout=60)
            await world.sql("update notes set body = 'edited ' || id where id <= 10")
            await world.sql("delete from notes where id > 30")
            victim.kill()
            await victim.wait()
            await world.sql("update notes set body = 'edited again ' || id where id <= 5")
    await eventually(lambda: provider.in_flight == 0, "the held calls to end")
    await world.check_consistent()
    in_flight = set(provider.texts_embedded)
    await world.fill()
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight


async def test_two_backfills_and_a_sync_embed_each_text_once(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(600))
    provider.behave(delay_s=0.02)
    async with (
        worker_process(world, provider, "sync"),
        worker_process(world, provider, "backfill") as first,
        worker_process(world, provider, "backfill") as second,
    ):
        for other in (first, second):
            assert await read_line(other) == "ready"
        async with running(edit_rows(world)) as editing:
            reports = [json.loads(await read_line(other)) for other in (first, second)]
            await editing
        await world.wait_until_idle()
        assert [report["state"] for report in reports] == ["completed", "completed"]
    await world.wait_until_released()
    await world.check_complete()
    assert overpaid(provider) == {}


async def edit_rows(world: World) -> None:
    for n in range(1, 60):
        await world.sql("update notes set body = %s where id = %s", f"edited {n}", n * 7)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
async def test_worker_with_a_wrong_clock_does_the_same_work(
    world: World, provider: StandInProvider, seconds: float
) -> None:
    """Leases and retries use the clock of the database, and rates a monotonic one."""
    provider.fail_next(429, times=2, retry_after=0.2)
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", *texts(100))
    provider.behave(delay_s=0.05)
    async with (
        worker_process(world, provider, "backfill", "--skew", str(seconds)) as wrong,
        worker_process(world, provider, "backfill") as right,
    ):
        reports = []
        for other in (wrong, right):
            await read_line(other)
            reports.append(json.loads(await read_line(other)))
    assert [report["state"] for report in reports] == ["completed", "completed"]
    await world.check_complete(dead=["1"])
    assert overpaid(provider) == {}
