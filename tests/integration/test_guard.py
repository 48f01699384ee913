"""What users do while Backline works: no edit is lost, none waits, no vector is of another text."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.integration.harness import (
    DIMENSIONS,
    World,
    blocked_by_backline,
    connect,
    eventually,
    execute,
    open_transactions,
    overpaid,
    running,
)
from tests.provider import StandInProvider

from backline import pgvector
from backline.embedders.hash import hash_vectors
from backline.store import NewVector
from backline.types import FailedAttempt


async def test_an_edit_made_during_the_call_wins(world: World, provider: StandInProvider) -> None:
    await world.insert("old", "other")
    async with running(world.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            before = await lease_of(world, "1")
            await world.sql("update notes set body = 'new' where id = 1")
            assert await lease_of(world, "1") != before, (
                "whoever held the old text has lost the lease"
            )
        await filling
    await world.check_complete()
    assert set(provider.texts_embedded) == {"old", "other", "new"}
    assert overpaid(provider) == {}


async def test_an_edit_there_and_back_during_the_call(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("old", "other")
    async with running(world.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await world.sql("update notes set body = 'new' where id = 1")
            await world.sql("update notes set body = 'old' where id = 1")
        await filling
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_row_deleted_during_the_call_leaves_no_trace(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("doomed", "other")
    async with running(world.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await world.sql("delete from notes where id = 1")
        await filling
    await world.check_complete()


async def test_a_row_deleted_and_made_anew_during_the_call(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("doomed", "other")
    async with running(world.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await world.sql("delete from notes where id = 1")
            await world.sql("insert into notes (id, body) values (1, 'another row of that key')")
        await filling
    await world.check_complete()


async def test_a_table_truncated_during_the_call(world: World, provider: StandInProvider) -> None:
    await world.insert("one", "two", "three")
    async with running(world.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await world.sql("truncate notes")
            await world.sql("insert into notes (id, body) values (2, 'two, again')")
        await filling
    await world.check_complete()


async def test_a_key_changed_during_the_call(world: World, provider: StandInProvider) -> None:
    await world.insert("one", "two")
    async with running(world.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await world.sql("update notes set id = 7 where id = 1")
        await filling
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_batch_of_nothing_but_deleted_rows_is_not_the_end(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*(f"text {n}" for n in range(70)))
    async with running(world.fill(batch_size=10, concurrency=1)) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await world.sql(
                "delete from notes where id::text in "
                "(select key from backline.jobs where worker_id is not null)"
            )
            await world.insert(*(f"text {n}" for n in range(100, 170)), first=1000)
        report = await filling
    assert report.coverage.complete
    await world.check_complete()


async def test_no_transaction_is_open_during_a_call(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*(f"text {n}" for n in range(40)))
    async with running(world.fill(batch_size=10)) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight, 2)
            # What else is done beside the calls are statements of milliseconds.
            await eventually_twice_idle(world)
            # A user's statement gives up after a second if it has to wait for a lock.
            await world.sql("set lock_timeout = '1s'")
            await world.sql("update notes set body = 'edited' where id < 20")
            await world.sql("delete from notes where id > 30")
            await world.sql("truncate notes")
            assert await blocked_by_backline(world.user) == []
            await world.insert("one", "two")
        await filling
    await world.check_complete()


async def eventually_twice_idle(world: World) -> None:
    """No transaction is open now, and none a little later: nothing stays open."""
    pids: list[set[int]] = []
    for _ in range(5):
        pids.append({row["pid"] for row in await open_transactions(world.user)})
        await asyncio.sleep(0.05)
    assert set.intersection(*pids) == set()


# --- somebody else's open transaction -------------------------------------------------------------


async def edit_at_once(world: World, statement: str) -> None:
    """A user's edit that fails if it has to wait for half a second."""
    async with world.another_user() as user:
        await execute(user, "set local lock_timeout = '500ms'")
        await execute(user, statement)
        await user.commit()


async def test_an_open_edit_delays_its_own_row_only(world: World) -> None:
    await world.insert(*(f"text {n}" for n in range(1, 31)))
    async with world.another_user() as slow:
        await execute(slow, "update notes set views = 9 where id = 7")
        async with running(world.fill()) as filling:

            async def others_are_stored() -> bool:
                [row] = await world.sql("select count(*) as n from backline.stamps where not stale")
                return bool(row["n"] == 29)

            await eventually(others_are_stored, "29 of 30 rows")
            for n in range(1, 31):
                if n != 7:
                    await edit_at_once(
                        world, f"update notes set body = 'edited {n}' where id = {n}"
                    )
            await slow.commit()
            await filling
    await world.check_complete()


async def test_an_open_edit_of_the_text_delays_nobody(world: World) -> None:
    await world.insert(*(f"text {n}" for n in range(1, 31)))
    await world.fill()
    await world.sql("delete from backline.stamps")  # so that every row is due
    await world.store.recount(world.collection.id)
    async with world.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id in (7, 20)")
        async with running(world.fill()) as filling:

            async def others_are_stored() -> bool:
                [row] = await world.sql("select count(*) as n from backline.stamps where not stale")
                return bool(row["n"] == 28)

            await eventually(others_are_stored, "28 of 30 rows")
            await edit_at_once(world, "update notes set body = 'quick' where id = 8")
            await slow.commit()
            await filling
    await world.check_complete()


@pytest.mark.parametrize("statement", ["update notes set views = 1", "update notes set body = 'x'"])
async def test_a_transaction_that_never_ends_ends_the_run(world: World, statement: str) -> None:
    await world.insert("one", "two", "three")
    async with world.another_user() as slow:
        await execute(slow, f"{statement} where id = 2")
        report = await world.fill(give_up_after=1.0)
        assert report.state == "interrupted"
        assert "open transaction" in (report.stopped_by or "")
        assert report.embedded == 2
        await slow.commit()
    await world.check_consistent()
    await world.fill()
    await world.check_complete()


async def test_a_page_that_somebody_edits_does_not_hold_up_the_walk(
    world: World, provider: StandInProvider
) -> None:
    """Row 5's stamp is locked by its editor, and 400 more rows come after it."""
    texts = [f"text {n}" for n in range(1, 401)]
    await world.insert(*texts)
    await world.fill(batch_size=100)
    await world.sql("update backline.stamps set content_hash = '\\x00'")
    async with world.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 5")
        async with running(world.fill(batch_size=100)) as filling:

            async def far_rows_are_stored() -> bool:
                [row] = await world.sql(
                    "select count(*) as n from backline.stamps "
                    "where content_hash <> '\\x00' and key::int > 60"
                )
                return bool(row["n"] == 340)

            await eventually(far_rows_are_stored, "the rows of the other pages")
            await slow.commit()
            await filling
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_the_verdict_on_a_row_that_somebody_edits_waits_for_them_alone(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert(*("POISON" if n in (3, 4) else f"text {n}" for n in range(1, 31)))
    async with running(world.fill(concurrency=1)) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            slow = await stack_edit(world, "update notes set body = 'mended' where id = 3")
        async with slow:
            await eventually_dead(world, "4")
            await edit_at_once(world, "update notes set body = 'mended too' where id = 4")
            await edit_at_once(world, "update notes set body = 'edited' where id = 5")
            await slow.commit()
        await filling
    await world.check_complete()


async def stack_edit(world: World, statement: str) -> AsyncConnection[Any]:
    """An edit in a transaction that stays open."""
    user = await connect(world.store.connector.conninfo)
    await user.set_autocommit(False)
    await execute(user, statement)
    return user


async def eventually_dead(world: World, key: str) -> None:
    async def dead() -> bool:
        return key in await world.failures()

    await eventually(dead, f"the verdict on row {key}")


@pytest.mark.parametrize("verb", ["release_dead_workers", "unregister", "release", "replace"])
async def test_leases_are_given_back_around_an_open_edit(world: World, verb: str) -> None:
    """The jobs of rows that nobody edits are freed, and their rows can be edited at once."""
    await world.insert("one", "two", "three")
    lease = await world.store.register(world.collection, None, lease=30)
    assert len(await world.store.claim(world.collection, lease.worker, 10)) == 3
    async with world.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 2")
        give_back = asyncio.wait_for(let_go(world, verb, lease.worker), 30)
        await give_back
        jobs = await world.jobs()
        assert jobs["1"] != lease.worker
        assert jobs["3"] != lease.worker
        await edit_at_once(world, "update notes set body = 'quick' where id = 3")
    await world.store.close_session(lease)
    await world.sql("delete from backline.workers")
    await world.store.release_dead_workers(
        world.collection
    )  # the edit was rolled back: what was left is freed now
    assert set((await world.jobs()).values()) == {None}
    await world.fill()
    await world.check_complete()


async def let_go(world: World, verb: str, worker: int) -> None:
    if verb == "release_dead_workers":
        await world.sql("update backline.workers set expires_at = now() - interval '1 second'")
        assert await world.store.release_dead_workers(world.collection) == 1
    elif verb == "unregister":
        await world.sql(f"select backline.unregister_worker({worker})")
    elif verb == "release":
        assert await world.release(worker) == 2
    else:
        other = await world.store.register(world.collection, None, 30, replaces=worker)
        await world.store.close_session(other)


@pytest.mark.parametrize("verb", ["retry_failures", "drop_failures"])
async def test_dead_letters_are_handled_around_an_open_edit(
    world: World, provider: StandInProvider, verb: str
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "POISON", "good")
    await world.fill()
    async with world.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 1")
        handle = getattr(world.store, verb)(world.collection, None)
        assert await asyncio.wait_for(handle, 30) == 1
        await edit_at_once(world, "update notes set body = 'mended' where id = 2")
    await world.check_consistent()


# --- what the protocol does with late and strange writes ------------------------------------------


async def claimed(world: World) -> dict[str, Any]:
    lease = await world.store.register(world.collection, None, lease=30)
    jobs = await world.store.claim(world.collection, lease.worker, 100)
    return {"lease": lease, "worker": lease.worker, "jobs": {job.key: job for job in jobs}}


async def test_a_fresh_row_is_judged_again_before_its_job_ends(world: World) -> None:
    """Claimed as fresh, edited to and fro, stored in between: the stamp is of another text."""
    await world.insert("A")
    await world.fill()
    await world.sql("insert into backline.jobs (collection_id, key, priority) values (%s, '1', 1)",
                world.collection.id)  # fmt: skip
    first = await claimed(world)
    assert first["jobs"]["1"].action == "up_to_date"
    await world.sql("update notes set body = 'B'")
    await world.fill()
    await world.sql("update notes set body = 'A'")
    again = await world.store.claim(world.collection, first["worker"], 10)
    assert [job.action for job in again] == ["reuse"]
    late = NewVector("1", "up_to_date", first["jobs"]["1"].content_hash)
    await world.store.complete(world.collection, first["worker"], None, [late], cache=False)
    await world.check_consistent()
    await world.store.unregister(first["lease"])
    await world.fill()
    await world.check_complete()


async def test_a_row_that_was_gone_and_is_back_is_not_brought_for_ever(world: World) -> None:
    await world.insert("A")
    await world.sql("alter table notes disable trigger user")
    await world.sql("delete from notes")
    await world.sql("alter table notes enable trigger user")
    held = await claimed(world)
    assert held["jobs"]["1"].action == "gone"
    await world.sql("insert into notes (id, body) values (1, 'back')")
    late = NewVector("1", "gone", None)
    outcomes = await world.store.complete(
        world.collection, held["worker"], None, [late], cache=False
    )
    assert outcomes == [("1", "changed")]
    assert await world.jobs() == {"1": None}
    await world.store.unregister(held["lease"])
    await world.store.recount(world.collection.id)
    await world.fill()
    await world.check_complete()


async def test_a_process_that_slept_past_its_lease_and_claims_leaves_nothing_stuck(
    world: World,
) -> None:
    await world.insert("one", "two")
    lease = await world.store.register(world.collection, None, lease=30)
    await world.sql("update backline.workers set expires_at = now() - interval '1 second'")
    await world.store.release_dead_workers(world.collection)
    assert len(await world.store.claim(world.collection, lease.worker, 10)) == 2
    await world.store.close_session(lease)  # and now it dies
    report = await world.fill()
    assert report.coverage.complete
    await world.check_complete()


async def test_a_text_that_joins_a_rejected_one_shares_its_verdict(
    world: World, provider: StandInProvider
) -> None:
    """Row 9 comes while the report on its text is held up by somebody's edit of row 1."""
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "good")
    async with world.syncing():
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            slow = await stack_edit(world, "update notes set views = 1 where id = 1")
            await execute(slow, "select 1 from backline.jobs where key = '1' for update")
        async with slow:
            await world.sql("insert into notes (id, body) values (9, 'POISON')")
            await eventually_dead(world, "9")
            await slow.commit()
        await eventually_dead(world, "1")
    await world.check_complete(dead=["1", "9"])


@pytest.mark.parametrize("verb", ["complete", "fail"])
async def test_a_late_answer_ends_no_newer_claim_of_the_same_worker(
    world: World, verb: str
) -> None:
    """Or another worker would take the new text while this one is embedding it."""
    await world.insert("A")
    first = await claimed(world)
    old = first["jobs"]["1"]
    await world.sql("update notes set body = 'B'")
    [new] = await world.store.claim(world.collection, first["worker"], 10)
    assert new.lease != old.lease
    if verb == "complete":
        late = NewVector("1", "embed", old.content_hash, unit_vector(), old.lease)
        done = await world.store.complete(
            world.collection, first["worker"], None, [late], cache=True
        )
        assert done == [("1", "changed")]
    else:
        attempt = FailedAttempt("1", old.content_hash or b"", "rejected", "no", None, old.lease)
        assert await world.store.fail(world.collection, first["worker"], None, [attempt]) == []
    assert await world.jobs() == {"1": first["worker"]}
    await world.store.unregister(first["lease"])
    await world.fill()
    await world.check_complete()


def unit_vector() -> bytes:
    [element] = pgvector.vector_elements(hash_vectors(["A"], DIMENSIONS))
    return element


async def lease_of(world: World, key: str) -> tuple[int | None, int | None]:
    """Who holds the job of a row, and by which claim."""
    [row] = await world.sql("select worker_id, lease from backline.jobs where key = %s", key)
    return (row["worker_id"], row["lease"] if row["worker_id"] is not None else None)
