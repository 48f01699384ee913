"""Traps that tools of this kind fall into, one by one; what other files hold is not repeated."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.harness import (
    World,
    blocked_by_backline,
    execute,
    make_world,
    open_transactions,
    overpaid,
    running,
)
from tests.integration.poison import PoisonousProvider
from tests.provider import StandInProvider

from backline.postgres.store import Store


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(1, count + 1)]


async def test_users_edit_and_delete_the_rows_that_a_slow_provider_has(
    world: World, provider: StandInProvider
) -> None:
    """Every statement on a row in flight gives up if it waits for a lock for 50 ms; none does."""
    await world.insert(*texts(60))
    async with running(world.fill(batch_size=20, concurrency=3)) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight, 3)
            await nothing_is_open(world)
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
        report = await filling
    assert report.coverage.complete
    await world.check_complete()
    assert overpaid(provider) == {}


async def nothing_is_open(world: World) -> None:
    """No transaction of Backline's lasts: none that is open now is open a moment later."""
    before = {(row["pid"], row["xact_start"]) for row in await open_transactions(world.user)}
    await asyncio.sleep(0.3)
    after = {(row["pid"], row["xact_start"]) for row in await open_transactions(world.user)}
    assert before & after == set()


async def test_a_provider_that_is_down_for_a_minute_of_its_own(
    world: World, provider: StandInProvider
) -> None:
    """The limiter's clock runs twenty times as fast: three seconds are a minute to it."""
    await world.insert(*texts(100))
    async with running(world.fill(give_up_after=60)) as filling:
        await asyncio.to_thread(provider.wait_calls, 1)
        provider.go_down(3.0)
        report = await filling
    assert (report.embedded, report.failed, report.state) == (100, 0, "completed")
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_counts_are_right_above_ten_thousand(world: World) -> None:
    await world.sql("insert into notes select i, 'text ' || i from generate_series(1, 12345) i")
    coverage = await world.store.coverage(world.collection)
    assert (coverage.rows, coverage.pending, coverage.embedded) == (12_345, 12_345, 0)
    assert (coverage.missing, coverage.ratio, coverage.complete) == (0, 0.0, False)
    assert coverage.lag_seconds > 0
    assert coverage.eta_seconds is None, "nobody works, so nobody knows"


async def test_a_run_that_stored_little_does_not_call_it_a_success(
    world: World, provider: StandInProvider
) -> None:
    """97 of 100 rows are rejected: three embedded are three, and the rest is named."""
    provider.behave(reject_marker="text")
    await world.insert(*texts(97), "good one", "good two", "good three")
    report = await world.fill(batch_size=100)
    assert (report.embedded, report.failed, report.complete) == (3, 97, False)
    assert report.coverage.ratio == pytest.approx(0.03)
    assert len(await world.failures()) == 97


async def test_a_batch_that_was_answered_and_not_stored_is_not_counted(
    world: World, provider: StandInProvider
) -> None:
    """The provider answered for every row; a trigger of the table's own keeps the vectors out."""
    await world.insert(*texts(40))
    await world.sql(
        "create function forget() returns trigger language plpgsql as "
        "$$ begin new.embedding = null; return null; end $$"
    )
    await world.sql(
        "create trigger forget before update of embedding on notes "
        "for each row when (new.id <= 30) execute function forget()"
    )
    report = await world.fill(give_up_after=1)
    assert report.embedded == 10
    assert not report.complete
    assert report.coverage.embedded == 10
    [row] = await world.sql("select count(*) as n from notes where embedding is not null")
    assert row["n"] == 10


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_each_attempt_is_counted_once(store: Store, attempts: int) -> None:
    """A counter that counts twice leaves no second attempt where two are allowed."""
    with PoisonousProvider("POISON") as provider:
        async with make_world(store, provider) as world:
            await world.sql("update backline.collections set max_attempts = %s", attempts)
            world.collection = await store.collection("notes")
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


async def test_a_walk_skips_no_page_of_a_set_that_shrinks(
    world: World, provider: StandInProvider
) -> None:
    """Pages of 50 of rows without a vector, while those get vectors and others are deleted."""
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


async def test_the_last_words_of_every_dead_letter_are_kept(
    world: World, provider: StandInProvider
) -> None:
    """However many fail at once, none vanishes with its error."""
    provider.behave(reject_marker="POISON", reject_message="I will not embed this.")
    await world.insert("a text that the provider takes", *(f"POISON {n}" for n in range(120)))
    await world.fill(batch_size=200)
    failures = [failure async for failure in world.store.failures(world.collection, page=7)]
    assert len(failures) == 120
    assert all("I will not embed this." in failure.error for failure in failures)
    provider.behave(reject_marker=None)
    assert await world.store.retry_failures(world.collection, None) == 120
    await world.fill()
    await world.check_complete()


async def test_an_open_transaction_of_a_reader_holds_up_nothing(world: World) -> None:
    """A report that somebody left open over the week-end."""
    await world.insert(*texts(50))
    async with world.another_user() as reader:
        await execute(reader, "set transaction isolation level repeatable read")
        await execute(reader, "select count(*) from notes")
        report = await world.fill()
    assert report.embedded == 50
    await world.check_complete()
