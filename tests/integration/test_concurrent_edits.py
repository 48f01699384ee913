"""Edits made while Backline works are not lost, do not wait, and get the right vector."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from tests.integration.harness import (
    World,
    blocked_by_backline,
    connect,
    during_call,
    eventually,
    execute,
    make_world,
    new_vector,
    open_transactions,
    overpaid,
    running,
    texts,
)
from tests.provider import StandInProvider

from backline.postgres.store import Store
from backline.store import Lease, NewVector
from backline.types import FailedAttempt, Job


async def test_edit_during_embedding_is_not_overwritten(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("old", "other")
    async with during_call(world, provider):
        before = await lease_of(world, "1")
        await world.sql("update notes set body = 'new' where id = 1")
        await world.apply_changes()
        assert await lease_of(world, "1") != before, (
            "the worker with the old text still holds the lease"
        )
    await world.check_complete()
    assert set(provider.texts_embedded) == {"old", "other", "new"}
    assert overpaid(provider) == {}


async def test_edit_undone_during_embedding_embeds_no_text_twice(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("old", "other")
    async with during_call(world, provider):
        await world.sql("update notes set body = 'new' where id = 1")
        await world.sql("update notes set body = 'old' where id = 1")
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_row_deleted_during_embedding_leaves_no_record(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("deleted", "other")
    async with during_call(world, provider):
        await world.sql("delete from notes where id = 1")
    await world.check_complete()


async def test_row_deleted_and_inserted_again_during_embedding_gets_its_own_vector(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("deleted", "other")
    async with during_call(world, provider):
        await world.sql("delete from notes where id = 1")
        await world.sql("insert into notes (id, body) values (1, 'another row of that key')")
    await world.check_complete()


async def test_truncate_during_embedding_leaves_no_record(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("one", "two", "three")
    async with during_call(world, provider):
        await world.sql("truncate notes")
        await world.sql("insert into notes (id, body) values (2, 'two, again')")
    await world.check_complete()


async def test_key_change_during_embedding_embeds_no_text_twice(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("one", "two")
    async with during_call(world, provider):
        await world.sql("update notes set id = 7 where id = 1")
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_batch_of_deleted_rows_does_not_end_the_run(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(70))
    async with during_call(world, provider, batch_size=10, concurrency=1) as filling:
        await world.sql(
            "delete from notes where id::text in "
            "(select key from backline.jobs where worker_id is not null)"
        )
        await world.insert(*texts(70, first=100), first=1000)
    report = filling.result()
    assert report.coverage.complete
    await world.check_complete()


async def test_no_transaction_is_open_during_embedding(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(40))
    async with during_call(world, provider, calls=2, batch_size=10):
        await check_no_lasting_transaction(world)
        # A statement that waits for a lock fails after a second.
        await world.sql("set lock_timeout = '1s'")
        await world.sql("update notes set body = 'edited' where id < 20")
        await world.sql("delete from notes where id > 30")
        await world.sql("truncate notes")
        assert await blocked_by_backline(world.user) == []
        await world.insert("one", "two")
    await world.check_complete()


async def check_no_lasting_transaction(world: World) -> None:
    """Assert that no session is in a transaction in each of five samples, 50 ms apart."""
    pids: list[set[int]] = []
    for _ in range(5):
        pids.append({row["pid"] for row in await open_transactions(world.user)})
        await asyncio.sleep(0.05)
    assert set.intersection(*pids) == set()


# --- open transactions of users -------------------------------------------------------------------


async def edit_without_waiting(world: World, statement: str) -> None:
    """Edit as another user; the edit fails if it waits for a lock for half a second."""
    async with world.another_user() as user:
        await execute(user, "set local lock_timeout = '500ms'")
        await execute(user, statement)
        await user.commit()


async def wait_for_stamps(world: World, count: int) -> None:
    async def stored() -> bool:
        [row] = await world.sql("select count(*) as n from backline.stamps where not stale")
        return bool(row["n"] == count)

    await eventually(stored, f"{count} stored rows")


async def test_open_edit_of_another_column_delays_only_its_row(world: World) -> None:
    await world.insert(*texts(30))
    async with world.another_user() as slow:
        await execute(slow, "update notes set views = 9 where id = 7")
        async with running(world.fill()) as filling:
            await wait_for_stamps(world, 29)
            for n in range(1, 31):
                if n != 7:
                    await edit_without_waiting(
                        world, f"update notes set body = 'edited {n}' where id = {n}"
                    )
            await slow.commit()
            await filling
    await world.check_complete()


async def test_open_edit_of_the_text_delays_no_other_row(world: World) -> None:
    await world.insert(*texts(30))
    await world.fill()
    await world.sql("delete from backline.stamps")  # so that every row is due
    await world.store.recount(world.collection.id)
    async with world.another_user() as slow:
        await execute(slow, "update notes set body = 'not committed' where id in (7, 20)")
        async with running(world.fill()) as filling:
            await wait_for_stamps(world, 28)
            await edit_without_waiting(world, "update notes set body = 'quick' where id = 8")
            await slow.commit()
            await filling
    await world.check_complete()


@pytest.mark.parametrize("statement", ["update notes set views = 1", "update notes set body = 'x'"])
async def test_lasting_user_transaction_interrupts_the_run(world: World, statement: str) -> None:
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


async def test_open_edit_does_not_block_the_scan(world: World, provider: StandInProvider) -> None:
    """The open edit locks the stamp of row 5, and the scan continues with the rows behind it."""
    await world.insert(*texts(400))
    await world.fill(batch_size=100)
    await world.sql("update backline.stamps set content_hash = '\\x00'")
    async with world.another_user() as slow:
        await execute(slow, "update notes set body = 'not committed' where id = 5")
        async with running(world.fill(batch_size=100)) as filling:

            async def later_rows_are_stored() -> bool:
                [row] = await world.sql(
                    "select count(*) as n from backline.stamps "
                    "where content_hash <> '\\x00' and key::int > 60"
                )
                return bool(row["n"] == 340)

            await eventually(later_rows_are_stored, "the rows of the later pages")
            await slow.commit()
            await filling
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_rejection_waits_only_for_the_locked_row(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert(*("POISON" if n in (3, 4) else f"text {n}" for n in range(1, 31)))
    async with running(world.fill(concurrency=1)) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            slow = await begin_edit(world, "update notes set body = 'corrected' where id = 3")
        async with slow:
            await wait_for_failure(world, "4")
            await edit_without_waiting(
                world, "update notes set body = 'corrected too' where id = 4"
            )
            await edit_without_waiting(world, "update notes set body = 'edited' where id = 5")
            await slow.commit()
        await filling
    await world.fill()  # a backfill does not wait for edits made after its start
    await world.check_complete()


async def begin_edit(world: World, statement: str) -> AsyncConnection[Any]:
    """Edit in a transaction that stays open, and return its connection."""
    user = await connect(world.store.connector.conninfo)
    await user.set_autocommit(False)
    await execute(user, statement)
    return user


async def wait_for_failure(world: World, key: str) -> None:
    async def dead() -> bool:
        return key in await world.failures()

    await eventually(dead, f"the dead letter of row {key}")


@pytest.mark.parametrize("verb", ["release_dead_workers", "unregister", "release", "replace"])
async def test_release_of_leases_skips_a_locked_row(world: World, verb: str) -> None:
    """The jobs of the other rows are released, and their rows can be edited without waiting."""
    await world.insert("one", "two", "three")
    lease = await world.store.register(world.collection, None, lease=30)
    assert len(await world.store.claim(world.collection, lease.worker, 10)) == 3
    async with world.another_user() as slow:
        await execute(slow, "select from backline.jobs where key = '2' for update")
        await asyncio.wait_for(release_by(world, verb, lease.worker), 30)
        jobs = await world.jobs()
        assert jobs["1"] != lease.worker
        assert jobs["3"] != lease.worker
        await edit_without_waiting(world, "update notes set body = 'quick' where id = 3")
    await world.store.close_session(lease)
    await world.sql("delete from backline.workers")
    await world.store.release_dead_workers(world.collection)  # row 2 is no longer locked
    assert set((await world.jobs()).values()) == {None}
    await world.fill()
    await world.check_complete()


async def release_by(world: World, verb: str, worker: int) -> None:
    """Release the jobs of a worker by one of the verbs that do so."""
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
async def test_retry_and_drop_of_failures_do_not_wait_for_an_open_edit(
    world: World, provider: StandInProvider, verb: str
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "POISON", "good")
    await world.fill()
    async with world.another_user() as slow:
        await execute(slow, "update notes set body = 'not committed' where id = 1")
        handled = getattr(world.store, verb)(world.collection, None)
        assert await asyncio.wait_for(handled, 30) == 2
        await edit_without_waiting(world, "update notes set body = 'corrected' where id = 2")
    await world.check_consistent_except_unqueued()


# --- late and unexpected writes -------------------------------------------------------------------


@dataclass(frozen=True)
class Claimed:
    """A worker's lease, and its claimed jobs by key."""

    lease: Lease
    jobs: dict[str, Job]

    @property
    def worker(self) -> int:
        return self.lease.worker


async def claim_all(world: World) -> Claimed:
    """Register a worker and claim every job."""
    lease = await world.store.register(world.collection, None, lease=30)
    jobs = await world.store.claim(world.collection, lease.worker, 100)
    return Claimed(lease, {job.key: job for job in jobs})


async def test_late_completion_of_an_up_to_date_row_keeps_its_job_open(world: World) -> None:
    """Claimed as up to date, the row is edited, embedded and edited back: its stamp is outdated."""
    await world.insert("A")
    await world.fill()
    await world.sql("insert into backline.jobs (collection_id, key, priority) values (%s, '1', 1)",
                world.collection.id)  # fmt: skip
    first = await claim_all(world)
    assert first.jobs["1"].action == "up_to_date"
    await world.sql("update notes set body = 'B'")
    await world.fill()
    await world.sql("update notes set body = 'A'")
    again = await world.store.claim(world.collection, first.worker, 10)
    assert [job.action for job in again] == ["reuse"]
    late = NewVector("1", "up_to_date", first.jobs["1"].content_hash)
    await world.store.complete(world.collection, first.worker, None, [late], cache=False)
    await world.check_consistent()
    await world.store.unregister(first.lease)
    await world.fill()
    await world.check_complete()


async def test_row_inserted_again_after_its_claim_as_gone_is_requeued(world: World) -> None:
    await world.insert("A")
    await world.apply_changes()
    await world.sql("alter table notes disable trigger user")
    await world.sql("delete from notes")
    await world.sql("alter table notes enable trigger user")
    claimed = await claim_all(world)
    assert claimed.jobs["1"].action == "gone"
    await world.sql("insert into notes (id, body) values (1, 'back')")
    late = NewVector("1", "gone", None)
    outcomes = await world.store.complete(
        world.collection, claimed.worker, None, [late], cache=False
    )
    assert outcomes == [("1", "changed")]
    assert await world.jobs() == {"1": None}
    await world.store.unregister(claimed.lease)
    await world.store.recount(world.collection.id)
    await world.fill()
    await world.check_complete()


async def test_claim_after_an_expired_lease_blocks_no_row(world: World) -> None:
    await world.insert("one", "two")
    lease = await world.store.register(world.collection, None, lease=30)
    await world.sql("update backline.workers set expires_at = now() - interval '1 second'")
    await world.store.release_dead_workers(world.collection)
    assert len(await world.store.claim(world.collection, lease.worker, 10)) == 2
    await world.store.close_session(lease)  # the process ends
    report = await world.fill()
    assert report.coverage.complete
    await world.check_complete()


async def test_row_with_the_text_of_a_rejected_call_is_rejected_too(
    world: World, provider: StandInProvider
) -> None:
    """Row 9 is inserted while an open edit of row 1 delays the report of the rejection."""
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "good")
    async with world.syncing():
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            slow = await begin_edit(world, "update notes set views = 1 where id = 1")
            await execute(slow, "select 1 from backline.jobs where key = '1' for update")
        async with slow:
            await world.sql("insert into notes (id, body) values (9, 'POISON')")
            await wait_for_failure(world, "9")
            await slow.commit()
        await wait_for_failure(world, "1")
    await world.check_complete(dead=["1", "9"])


@pytest.mark.parametrize("verb", ["complete", "fail"])
async def test_late_result_does_not_end_a_newer_claim_of_the_same_worker(
    world: World, verb: str
) -> None:
    """Otherwise another worker would embed the new text a second time."""
    await world.insert("A")
    first = await claim_all(world)
    old = first.jobs["1"]
    await world.sql("update notes set body = 'B'")
    [new] = await world.store.claim(world.collection, first.worker, 10)
    assert new.lease != old.lease
    if verb == "complete":
        outcomes = await world.store.complete(
            world.collection, first.worker, None, [new_vector(old)], cache=True
        )
        assert outcomes == [("1", "changed")]
    else:
        attempt = FailedAttempt("1", old.content_hash or b"", "rejected", "no", None, old.lease)
        assert await world.store.fail(world.collection, first.worker, None, [attempt]) == []
    assert await world.jobs() == {"1": first.worker}
    await world.store.unregister(first.lease)
    await world.fill()
    await world.check_complete()


async def lease_of(world: World, key: str) -> tuple[int | None, int | None]:
    """Return the worker and the lease of a row's job."""
    [row] = await world.sql("select worker_id, lease from backline.jobs where key = %s", key)
    return (row["worker_id"], row["lease"] if row["worker_id"] is not None else None)


@pytest.mark.parametrize("into", [None, "notes_vectors"])
async def test_repeatable_read_writers_fail_because_of_no_trigger(
    store: Store, into: str | None
) -> None:
    """Each has its own row. A vector stored in the row after the snapshot is another write of it.

    With a side table there is none, and no transaction fails.
    """
    async with make_world(store, into=into) as world:
        await world.insert(*texts(4))
        failures: list[psycopg.errors.SerializationFailure] = []

        async def write(key: int) -> None:
            async with await connect(store.connector.conninfo) as user:
                await user.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
                for n in range(100):
                    try:
                        async with user.transaction():
                            await execute(user, "select body from notes where id = %s", key)
                            await asyncio.sleep(0.005)
                            for text in (f"draft {n}", f"edit {n}"):
                                await execute(
                                    user, "update notes set body = %s where id = %s", text, key
                                )
                    except psycopg.errors.SerializationFailure as error:
                        failures.append(error)

        async with world.syncing():
            await asyncio.gather(*(write(key) for key in range(1, 5)))
            await world.wait_until_idle()
        assert [error.diag.context for error in failures if error.diag.context] == []
        assert into is None or failures == []
        await world.check_complete()
