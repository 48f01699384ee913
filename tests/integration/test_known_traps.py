"""Known defects of similar tools, one test each unless another file covers it."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.harness import (
    World,
    blocked_by_backline,
    during_call,
    execute,
    make_world,
    open_transactions,
    overpaid,
    running,
    texts,
)
from tests.integration.poison import PoisonousProvider
from tests.provider import StandInProvider

from backline.postgres.store import Store


async def test_rows_in_flight_can_be_edited_and_deleted_without_waiting(
    world: World, provider: StandInProvider
) -> None:
    """Each statement on a row in flight would fail after waiting 50 ms for a lock."""
    await world.insert(*texts(60))
    async with during_call(world, provider, calls=3, batch_size=20, concurrency=3) as filling:
        await check_no_lasting_transaction(world)
        leased = [key for key, worker in (await world.jobs()).items() if worker is not None]
        assert len(leased) == 60
        await world.sql("set lock_timeout = '50ms'")
        for key in range(1, 61):
            if key % 3 == 0:
                await world.sql("delete from notes where id = %s", key)
            else:
                await world.sql("update notes set body = 'edited ' || id where id = %s", key)
                await world.sql("update notes set views = views + 1 where id = %s", key)
            assert await blocked_by_backline(world.user) == []
        await world.sql("reset lock_timeout")
    report = filling.result()
    assert report.coverage.complete
    await world.check_complete()
    assert overpaid(provider) == {}


async def check_no_lasting_transaction(world: World) -> None:
    """Assert that no transaction of Backline is open both now and 300 ms later."""
    before = {(row["pid"], row["xact_start"]) for row in await open_transactions(world.user)}
    await asyncio.sleep(0.3)
    after = {(row["pid"], row["xact_start"]) for row in await open_transactions(world.user)}
    assert before & after == set()


async def test_provider_outage_of_a_minute_is_survived(
    world: World, provider: StandInProvider
) -> None:
    """The limiter's clock runs twenty times as fast, so its minute lasts three seconds."""
    await world.insert(*texts(100))
    async with running(world.fill(give_up_after=60)) as filling:
        await asyncio.to_thread(provider.wait_calls, 1)
        provider.go_down(3.0)
        report = await filling
    assert (report.embedded, report.failed, report.state) == (100, 0, "completed")
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_coverage_is_exact_above_ten_thousand_rows(world: World) -> None:
    await world.sql("insert into notes select i, 'text ' || i from generate_series(1, 12345) i")
    coverage = await world.store.coverage(world.collection)
    assert (coverage.rows, coverage.pending, coverage.embedded) == (12_345, 12_345, 0)
    assert (coverage.missing, coverage.ratio, coverage.complete) == (0, 0.0, False)
    assert coverage.lag_seconds > 0
    assert coverage.eta_seconds is None, "an estimate without any worker"


async def test_report_of_a_mostly_failed_run_is_not_complete(
    world: World, provider: StandInProvider
) -> None:
    """The provider rejects 97 of 100 rows."""
    provider.behave(reject_marker="text")
    await world.insert(*texts(97), "good one", "good two", "good three")
    report = await world.fill(batch_size=100)
    assert (report.embedded, report.failed, report.complete) == (3, 97, False)
    assert report.coverage.ratio == pytest.approx(0.03)
    assert len(await world.failures()) == 97


async def test_embedded_rows_that_were_not_stored_are_not_counted(
    world: World, provider: StandInProvider
) -> None:
    """A user's trigger suppresses the write of 30 vectors."""
    await world.insert(*texts(40))
    await world.sql(
        "create function suppress() returns trigger language plpgsql as "
        "$$ begin new.embedding = null; return null; end $$"
    )
    await world.sql(
        "create trigger suppress before update of embedding on notes "
        "for each row when (new.id <= 30) execute function suppress()"
    )
    report = await world.fill(give_up_after=1)
    assert report.embedded == 10
    assert not report.complete
    assert report.coverage.embedded == 10
    [row] = await world.sql("select count(*) as n from notes where embedding is not null")
    assert row["n"] == 10


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_attempts_are_counted_once_each(store: Store, attempts: int) -> None:
    """Counting an attempt twice would leave a row fewer attempts than allowed."""
    with PoisonousProvider("POISON") as provider:
        async with make_world(store, provider) as world:
            await world.set_max_attempts(attempts)
            await world.insert("POISON", *texts(30))
            seen: set[int] = set()

            async def watch() -> None:
                while True:
                    rows = await world.sql("select attempts from backline.jobs where key = '1'")
                    seen.update(row["attempts"] for row in rows)
                    await asyncio.sleep(0.01)

            async with running(watch()) as watching:
                report = await world.fill(give_up_after=30)
                watching.cancel()
            assert (report.embedded, report.failed) == (30, 1)
            assert seen == set(range(attempts))
            [failure] = [failure async for failure in store.failures(world.collection)]
            assert failure.attempts == attempts


async def test_scan_skips_no_row_while_the_set_shrinks(
    world: World, provider: StandInProvider
) -> None:
    """Rows get vectors and others are deleted while the scan pages through the unembedded ones."""
    await world.insert(*texts(1000))
    await world.sql("delete from backline.jobs")
    await world.store.recount(world.collection.id)
    provider.behave(delay_s=0.01)
    async with running(world.fill(batch_size=10, concurrency=2)) as filling:
        for n in range(1, 40):
            await world.sql("delete from notes where id = %s", n * 25)
            await asyncio.sleep(0.005)
        report = await filling
    assert report.coverage.complete
    assert report.scanned >= 961
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_every_dead_letter_keeps_its_error(world: World, provider: StandInProvider) -> None:
    """Also when many rows fail at once."""
    provider.behave(reject_marker="POISON", reject_message="I will not embed this.")
    await world.insert("a text that the provider accepts", *(f"POISON {n}" for n in range(120)))
    await world.fill(batch_size=200)
    failures = [failure async for failure in world.store.failures(world.collection, page=7)]
    assert len(failures) == 120
    assert all("I will not embed this." in failure.error for failure in failures)
    provider.behave(reject_marker=None)
    assert await world.store.retry_failures(world.collection, None) == 120
    await world.fill()
    await world.check_complete()


async def test_open_transaction_of_a_reader_delays_nothing(world: World) -> None:
    """Such as the session of a report that was left open."""
    await world.insert(*texts(50))
    async with world.another_user() as reader:
        await execute(reader, "set transaction isolation level repeatable read")
        await execute(reader, "select count(*) from notes")
        report = await world.fill()
    assert report.embedded == 50
    await world.check_complete()
