"""What users do while Backline works: no edit is lost, none waits, no vector is of another text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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
    world,
)
from tests.provider import StandInProvider

from backline import pgvector
from backline.embedders.hash import hash_vectors
from backline.postgres.store import Store
from backline.store import NewVector
from backline.types import FailedAttempt


@pytest.fixture
async def w(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    async with world(store, provider) as made:
        yield made


async def test_an_edit_made_during_the_call_wins(w: World, provider: StandInProvider) -> None:
    await w.insert("old", "other")
    async with running(w.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            before = await lease_of(w, "1")
            await w.sql("update notes set body = 'new' where id = 1")
            assert await lease_of(w, "1") != before, "whoever held the old text has lost the lease"
        await filling
    await w.check_complete()
    assert set(provider.texts_embedded) == {"old", "other", "new"}
    assert overpaid(provider) == {}


async def test_an_edit_there_and_back_during_the_call(w: World, provider: StandInProvider) -> None:
    await w.insert("old", "other")
    async with running(w.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await w.sql("update notes set body = 'new' where id = 1")
            await w.sql("update notes set body = 'old' where id = 1")
        await filling
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_a_row_deleted_during_the_call_leaves_no_trace(
    w: World, provider: StandInProvider
) -> None:
    await w.insert("doomed", "other")
    async with running(w.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await w.sql("delete from notes where id = 1")
        await filling
    await w.check_complete()


async def test_a_row_deleted_and_made_anew_during_the_call(
    w: World, provider: StandInProvider
) -> None:
    await w.insert("doomed", "other")
    async with running(w.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await w.sql("delete from notes where id = 1")
            await w.sql("insert into notes (id, body) values (1, 'another row of that key')")
        await filling
    await w.check_complete()


async def test_a_table_truncated_during_the_call(w: World, provider: StandInProvider) -> None:
    await w.insert("one", "two", "three")
    async with running(w.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await w.sql("truncate notes")
            await w.sql("insert into notes (id, body) values (2, 'two, again')")
        await filling
    await w.check_complete()


async def test_a_key_changed_during_the_call(w: World, provider: StandInProvider) -> None:
    await w.insert("one", "two")
    async with running(w.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await w.sql("update notes set id = 7 where id = 1")
        await filling
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_a_batch_of_nothing_but_deleted_rows_is_not_the_end(
    w: World, provider: StandInProvider
) -> None:
    await w.insert(*(f"text {n}" for n in range(70)))
    async with running(w.fill(batch_size=10, concurrency=1)) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await w.sql(
                "delete from notes where id::text in "
                "(select key from backline.jobs where worker_id is not null)"
            )
            await w.insert(*(f"text {n}" for n in range(100, 170)), first=1000)
        report = await filling
    assert report.coverage.complete
    await w.check_complete()


async def test_no_transaction_is_open_during_a_call(w: World, provider: StandInProvider) -> None:
    await w.insert(*(f"text {n}" for n in range(40)))
    async with running(w.fill(batch_size=10)) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight, 2)
            # What else is done beside the calls are statements of milliseconds.
            await eventually_twice_idle(w)
            # A user's statement gives up after a second if it has to wait for a lock.
            await w.sql("set lock_timeout = '1s'")
            await w.sql("update notes set body = 'edited' where id < 20")
            await w.sql("delete from notes where id > 30")
            await w.sql("truncate notes")
            assert await blocked_by_backline(w.user) == []
            await w.insert("one", "two")
        await filling
    await w.check_complete()


async def eventually_twice_idle(w: World) -> None:
    """No transaction is open now, and none a little later: nothing stays open."""
    pids: list[set[int]] = []
    for _ in range(5):
        pids.append({row["pid"] for row in await open_transactions(w.user)})
        await asyncio.sleep(0.05)
    assert set.intersection(*pids) == set()


# --- somebody else's open transaction -------------------------------------------------------------


async def edit_at_once(w: World, statement: str) -> None:
    """A user's edit that fails if it has to wait for half a second."""
    async with w.another_user() as user:
        await execute(user, "set local lock_timeout = '500ms'")
        await execute(user, statement)
        await user.commit()


async def test_an_open_edit_delays_its_own_row_only(w: World) -> None:
    await w.insert(*(f"text {n}" for n in range(1, 31)))
    async with w.another_user() as slow:
        await execute(slow, "update notes set views = 9 where id = 7")
        async with running(w.fill()) as filling:

            async def others_are_stored() -> bool:
                [row] = await w.sql("select count(*) as n from backline.stamps where not stale")
                return bool(row["n"] == 29)

            await eventually(others_are_stored, "29 of 30 rows")
            for n in range(1, 31):
                if n != 7:
                    await edit_at_once(w, f"update notes set body = 'edited {n}' where id = {n}")
            await slow.commit()
            await filling
    await w.check_complete()


async def test_an_open_edit_of_the_text_delays_nobody(w: World) -> None:
    await w.insert(*(f"text {n}" for n in range(1, 31)))
    await w.fill()
    await w.sql("delete from backline.stamps")  # so that every row is due
    await w.store.recount(w.collection.id)
    async with w.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id in (7, 20)")
        async with running(w.fill()) as filling:

            async def others_are_stored() -> bool:
                [row] = await w.sql("select count(*) as n from backline.stamps where not stale")
                return bool(row["n"] == 28)

            await eventually(others_are_stored, "28 of 30 rows")
            await edit_at_once(w, "update notes set body = 'quick' where id = 8")
            await slow.commit()
            await filling
    await w.check_complete()


@pytest.mark.parametrize("statement", ["update notes set views = 1", "update notes set body = 'x'"])
async def test_a_transaction_that_never_ends_ends_the_run(w: World, statement: str) -> None:
    await w.insert("one", "two", "three")
    async with w.another_user() as slow:
        await execute(slow, f"{statement} where id = 2")
        report = await w.fill(give_up_after=1.0)
        assert report.state == "interrupted"
        assert "open transaction" in (report.stopped_by or "")
        assert report.embedded == 2
        await slow.commit()
    await w.check_sound()
    await w.fill()
    await w.check_complete()


async def test_a_page_that_somebody_edits_does_not_hold_up_the_walk(
    w: World, provider: StandInProvider
) -> None:
    """Row 5's stamp is locked by its editor, and 400 more rows come after it."""
    texts = [f"text {n}" for n in range(1, 401)]
    await w.insert(*texts)
    await w.fill(batch_size=100)
    await w.sql("update backline.stamps set content_hash = '\\x00'")
    async with w.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 5")
        async with running(w.fill(batch_size=100)) as filling:

            async def far_rows_are_stored() -> bool:
                [row] = await w.sql(
                    "select count(*) as n from backline.stamps "
                    "where content_hash <> '\\x00' and key::int > 60"
                )
                return bool(row["n"] == 340)

            await eventually(far_rows_are_stored, "the rows of the other pages")
            await slow.commit()
            await filling
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_the_verdict_on_a_row_that_somebody_edits_waits_for_them_alone(
    w: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await w.insert(*("POISON" if n in (3, 4) else f"text {n}" for n in range(1, 31)))
    async with running(w.fill(concurrency=1)) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            slow = await stack_edit(w, "update notes set body = 'mended' where id = 3")
        async with slow:
            await eventually_dead(w, "4")
            await edit_at_once(w, "update notes set body = 'mended too' where id = 4")
            await edit_at_once(w, "update notes set body = 'edited' where id = 5")
            await slow.commit()
        await filling
    await w.check_complete()


async def stack_edit(w: World, statement: str) -> AsyncConnection[Any]:
    """An edit in a transaction that stays open."""
    user = await connect(w.store.connector.conninfo)
    await user.set_autocommit(False)
    await execute(user, statement)
    return user


async def eventually_dead(w: World, key: str) -> None:
    async def dead() -> bool:
        return key in await w.failures()

    await eventually(dead, f"the verdict on row {key}")


@pytest.mark.parametrize("verb", ["release_dead_workers", "unregister", "release", "replace"])
async def test_leases_are_given_back_around_an_open_edit(w: World, verb: str) -> None:
    """The jobs of rows that nobody edits are freed, and their rows can be edited at once."""
    await w.insert("one", "two", "three")
    lease = await w.store.register(w.collection, None, lease=30)
    assert len(await w.store.claim(w.collection, lease.worker, 10)) == 3
    async with w.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 2")
        give_back = asyncio.wait_for(let_go(w, verb, lease.worker), 30)
        await give_back
        jobs = await w.jobs()
        assert jobs["1"] != lease.worker
        assert jobs["3"] != lease.worker
        await edit_at_once(w, "update notes set body = 'quick' where id = 3")
    await w.store.close_session(lease)
    await w.sql("delete from backline.workers")
    await w.store.release_dead_workers(
        w.collection
    )  # the edit was rolled back: what was left is freed now
    assert set((await w.jobs()).values()) == {None}
    await w.fill()
    await w.check_complete()


async def let_go(w: World, verb: str, worker: int) -> None:
    if verb == "release_dead_workers":
        await w.sql("update backline.workers set expires_at = now() - interval '1 second'")
        assert await w.store.release_dead_workers(w.collection) == 1
    elif verb == "unregister":
        await w.sql(f"select backline.unregister_worker({worker})")
    elif verb == "release":
        assert await w.store.release(worker) == 2
    else:
        other = await w.store.register(w.collection, None, 30, replaces=worker)
        await w.store.close_session(other)


@pytest.mark.parametrize("verb", ["retry_failures", "drop_failures"])
async def test_dead_letters_are_handled_around_an_open_edit(
    w: World, provider: StandInProvider, verb: str
) -> None:
    provider.behave(reject_marker="POISON")
    await w.insert("POISON", "POISON", "good")
    await w.fill()
    async with w.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 1")
        handle = getattr(w.store, verb)(w.collection, None)
        assert await asyncio.wait_for(handle, 30) == 1
        await edit_at_once(w, "update notes set body = 'mended' where id = 2")
    await w.check_sound()


# --- what the protocol does with late and strange writes ------------------------------------------


async def claimed(w: World) -> dict[str, Any]:
    lease = await w.store.register(w.collection, None, lease=30)
    jobs = await w.store.claim(w.collection, lease.worker, 100)
    return {"lease": lease, "worker": lease.worker, "jobs": {job.key: job for job in jobs}}


async def test_a_fresh_row_is_judged_again_before_its_job_ends(w: World) -> None:
    """Claimed as fresh, edited to and fro, stored in between: the stamp is of another text."""
    await w.insert("A")
    await w.fill()
    await w.sql("insert into backline.jobs (collection_id, key, priority) values (%s, '1', 1)",
                w.collection.id)  # fmt: skip
    first = await claimed(w)
    assert first["jobs"]["1"].action == "up_to_date"
    await w.sql("update notes set body = 'B'")
    await w.fill()
    await w.sql("update notes set body = 'A'")
    again = await w.store.claim(w.collection, first["worker"], 10)
    assert [job.action for job in again] == ["reuse"]
    late = NewVector("1", "up_to_date", first["jobs"]["1"].content_hash)
    await w.store.complete(w.collection, first["worker"], None, [late], cache=False)
    await w.check_sound()
    await w.store.unregister(first["lease"])
    await w.fill()
    await w.check_complete()


async def test_a_row_that_was_gone_and_is_back_is_not_brought_for_ever(w: World) -> None:
    await w.insert("A")
    await w.sql("alter table notes disable trigger user")
    await w.sql("delete from notes")
    await w.sql("alter table notes enable trigger user")
    held = await claimed(w)
    assert held["jobs"]["1"].action == "gone"
    await w.sql("insert into notes (id, body) values (1, 'back')")
    late = NewVector("1", "gone", None)
    outcomes = await w.store.complete(w.collection, held["worker"], None, [late], cache=False)
    assert outcomes == [("1", "changed")]
    assert await w.jobs() == {"1": None}
    await w.store.unregister(held["lease"])
    await w.store.recount(w.collection.id)
    await w.fill()
    await w.check_complete()


async def test_a_process_that_slept_past_its_lease_and_claims_leaves_nothing_stuck(
    w: World,
) -> None:
    await w.insert("one", "two")
    lease = await w.store.register(w.collection, None, lease=30)
    await w.sql("update backline.workers set expires_at = now() - interval '1 second'")
    await w.store.release_dead_workers(w.collection)
    assert len(await w.store.claim(w.collection, lease.worker, 10)) == 2
    await w.store.close_session(lease)  # and now it dies
    report = await w.fill()
    assert report.coverage.complete
    await w.check_complete()


async def test_a_text_that_joins_a_rejected_one_shares_its_verdict(
    w: World, provider: StandInProvider
) -> None:
    """Row 9 comes while the report on its text is held up by somebody's edit of row 1."""
    provider.behave(reject_marker="POISON")
    await w.insert("POISON", "good")
    async with w.following():
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            slow = await stack_edit(w, "update notes set views = 1 where id = 1")
            await execute(slow, "select 1 from backline.jobs where key = '1' for update")
        async with slow:
            await w.sql("insert into notes (id, body) values (9, 'POISON')")
            await eventually_dead(w, "9")
            await slow.commit()
        await eventually_dead(w, "1")
    await w.check_complete(dead=["1", "9"])


@pytest.mark.parametrize("verb", ["complete", "fail"])
async def test_a_late_answer_ends_no_newer_claim_of_the_same_worker(w: World, verb: str) -> None:
    """Or another worker would take the new text while this one is embedding it."""
    await w.insert("A")
    first = await claimed(w)
    old = first["jobs"]["1"]
    await w.sql("update notes set body = 'B'")
    [new] = await w.store.claim(w.collection, first["worker"], 10)
    assert new.lease != old.lease
    if verb == "complete":
        late = NewVector("1", "embed", old.content_hash, unit_vector(), old.lease)
        done = await w.store.complete(w.collection, first["worker"], None, [late], cache=True)
        assert done == [("1", "changed")]
    else:
        attempt = FailedAttempt("1", old.content_hash or b"", "rejected", "no", None, old.lease)
        assert await w.store.fail(w.collection, first["worker"], None, [attempt]) == []
    assert await w.jobs() == {"1": first["worker"]}
    await w.store.unregister(first["lease"])
    await w.fill()
    await w.check_complete()


def unit_vector() -> bytes:
    [element] = pgvector.vector_elements(hash_vectors(["A"], DIMENSIONS))
    return element


async def lease_of(w: World, key: str) -> tuple[int | None, int | None]:
    """Who holds the job of a row, and by which claim."""
    [row] = await w.sql("select worker_id, lease from backline.jobs where key = %s", key)
    return (row["worker_id"], row["lease"] if row["worker_id"] is not None else None)
