"""Who holds what: pages of a walk, workers that lost their connection, answers that were lost."""

from __future__ import annotations

from functools import partial

from tests.integration.harness import (
    DIMENSIONS,
    World,
    eventually,
    execute,
    running,
    waits_for_lock,
)

from backline import pgvector
from backline.embedders.hash import hash_vectors
from backline.store import LeasedBatch, NewVector
from backline.types import FailedAttempt, Job


async def test_a_worker_whose_connection_is_cut_is_not_dead_to_itself(world: World) -> None:
    """Or it would free its own rows before it notices, and pay for them again."""
    await world.insert("one", "two")
    lease = await world.store.register(world.collection, None, 20)
    await world.store.claim(world.collection, lease.worker, 10)
    await world.store.close_session(lease)
    await closed(world)
    assert await world.store.release_dead_workers(world.collection, lease.worker) == 0
    assert await world.jobs() == {"1": lease.worker, "2": lease.worker}
    assert await world.store.release_dead_workers(world.collection) == 1
    assert await world.jobs() == {"1": None, "2": None}


async def test_a_worker_that_did_not_hear_of_its_new_lease_keeps_its_rows(world: World) -> None:
    await world.insert("one", "two")
    lease = await world.store.register(world.collection, None, 20)
    await world.store.claim(world.collection, lease.worker, 10)
    await world.store.close_session(lease)
    unheard = await world.store.register(world.collection, None, 20, lease.worker)
    await world.store.close_session(unheard)
    await closed(world)
    assert await world.store.release_dead_workers(world.collection, lease.worker) == 0
    renewed = await world.store.register(world.collection, None, 20, lease.worker)
    assert await world.jobs() == {"1": renewed.worker, "2": renewed.worker}
    assert [row["id"] for row in await world.sql("select id from backline.workers")] == [
        renewed.worker
    ]
    await world.store.unregister(renewed)


async def test_a_page_whose_answer_was_lost_is_found_again(world: World) -> None:
    await unqueued(world, 3)
    lease = await world.store.register(world.collection, None, 20)
    first = await world.store.claim_batch(world.collection, lease.worker, None, None, 1)
    await world.store.claim_batch(
        world.collection, lease.worker, None, "1", 2, leases(first)
    )  # unheard
    second = await world.store.claim_batch(
        world.collection, lease.worker, None, "1", 2, leases(first)
    )
    assert [job.key for job in [*first.jobs, *second.jobs]] == ["1", "2", "3"]
    await world.store.end_finished_batches(lease.worker, leases(second))
    assert await world.jobs() == {"2": lease.worker, "3": lease.worker}
    await world.store.unregister(lease)
    assert await world.jobs() == {"2": None, "3": None}


async def test_two_walks_at_once_share_the_rows(world: World) -> None:
    await unqueued(world, 6)
    one, two = [await world.store.register(world.collection, None, 20) for _ in range(2)]
    first = await world.store.claim_batch(world.collection, one.worker, None, None, 4)
    second = await world.store.claim_batch(world.collection, two.worker, None, None, 6)
    assert [job.key for job in first.jobs] == ["1", "2", "3", "4"]
    assert [job.key for job in second.jobs] == ["5", "6"]
    coverage = await world.store.coverage(world.collection)
    assert (coverage.pending, coverage.in_flight) == (6, 6)
    remain, _ = await world.store.outstanding(world.collection, await world.store.now())
    assert remain
    await world.enqueue(10)
    assert await world.sql("select * from backline.jobs") == []
    await world.store.unregister(one)
    await world.store.unregister(two)


async def test_a_page_leaves_a_row_to_the_edit_that_came_as_it_was_claimed(world: World) -> None:
    """Or its new text would be embedded for the page, and for the edit's job."""
    await unqueued(world, 3)
    lease = await world.store.register(world.collection, None, 20)
    async with world.another_user() as slow:
        await execute(slow, "lock table notes in access exclusive mode")
        claim = "select key from unnest((backline.claim_batch(%s, %s, null, null, 9, %s)).keys) key"
        async with running(
            world.sql(claim, world.collection.id, lease.worker, world.collection.model_id)
        ) as claiming:
            waits = partial(waits_for_lock, world.store, "%backline.claim_batch(%")
            await eventually(waits, "the claim to wait for the table", every=0.005)
            await execute(slow, "update notes set body = 'edited' where id = 2")
            await slow.commit()
            assert [row["key"] for row in await claiming] == ["1", "3"]
    await world.store.unregister(lease)


async def test_rows_of_a_dead_worker_are_waited_for_by_whoever_passed_them_by(world: World) -> None:
    """They count from when they were leased: what is freed later was there all along."""
    await unqueued(world, 3)
    dead = await world.store.register(world.collection, None, 20)
    await world.store.claim_batch(world.collection, dead.worker, None, None, 2)
    asked = await world.store.now()
    await world.store.close_session(dead)
    await closed(world)
    assert await world.store.release_dead_workers(world.collection) == 1
    assert await world.jobs() == {"1": None, "2": None}
    assert (await world.store.outstanding(world.collection, asked))[0]


async def test_a_row_of_a_page_that_fails_waits_by_itself(world: World) -> None:
    """The others stay where they are, and what somebody edits at this moment is not touched."""
    await unqueued(world, 4)
    lease = await world.store.register(world.collection, None, 20)
    page = await world.store.claim_batch(world.collection, lease.worker, None, None, 4)
    attempts = [
        FailedAttempt(job.key, job.content_hash or b"", "unavailable", "no", 60.0, job.lease)
        for job in page.jobs[:2]
    ]
    async with world.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 2")
        assert await world.store.fail(world.collection, lease.worker, None, attempts) == ["2"]
        await slow.rollback()
    waits = await world.sql("select key, worker_id, attempts from backline.jobs")
    assert [tuple(row.values()) for row in waits] == [("1", None, 1)]
    [left] = await world.sql("select keys from backline.batch_leases")
    assert sorted(left["keys"]) == ["2", "3", "4"]
    await world.store.unregister(lease)


async def test_a_row_of_a_page_that_was_edited_behind_the_triggers_is_done_again(
    world: World,
) -> None:
    await unqueued(world, 2)
    lease = await world.store.register(world.collection, None, 20)
    page = await world.store.claim_batch(world.collection, lease.worker, None, None, 2)
    await world.sql("set session_replication_role = replica")
    await world.sql("update notes set body = 'other' where id = 1")
    await world.sql("set session_replication_role = origin")
    rows = [vector_of(job) for job in page.jobs]
    outcomes = await world.store.complete(world.collection, lease.worker, None, rows, cache=False)
    assert outcomes == [("1", "changed")]
    assert await world.jobs() == {"1": None}
    await world.store.unregister(lease)
    await world.fill()
    await world.check_complete()


async def test_a_row_that_was_stamped_since_its_page_was_leased_spoils_no_other(
    world: World,
) -> None:
    """Stamps of rows that had none are inserted without looking, until one is there after all."""
    await unqueued(world, 3)
    lease = await world.store.register(world.collection, None, 20)
    page = await world.store.claim_batch(world.collection, lease.worker, None, None, 3)
    await world.sql("update notes set body = 'other' where id = 2")
    await world.sql("update notes set body = 'text 1' where id = 2")
    [edited] = await world.store.claim(world.collection, lease.worker, 9)
    await world.store.complete(
        world.collection, lease.worker, None, [vector_of(edited)], cache=False
    )
    rows = [vector_of(job) for job in page.jobs]
    assert await world.store.complete(world.collection, lease.worker, None, rows, cache=False) == []
    assert await world.store.complete(world.collection, lease.worker, None, rows, cache=False) == []
    await world.store.unregister(lease)
    await world.check_complete()


async def test_stamps_that_are_out_of_date_are_written_over(world: World) -> None:
    await unqueued(world, 3)
    await world.fill()
    await world.sql("update backline.stamps set content_hash = 'x' where key <> '2'")
    lease = await world.store.register(world.collection, None, 20)
    page = await world.store.claim_batch(world.collection, lease.worker, None, None, 3)
    assert [job.key for job in page.jobs] == ["1", "3"]
    assert await world.sql("select stamped from backline.batch_leases") == [{"stamped": True}]
    rows = [vector_of(job) for job in page.jobs]
    assert await world.store.complete(world.collection, lease.worker, None, rows, cache=False) == []
    await world.store.unregister(lease)
    await world.check_complete()


async def unqueued(world: World, count: int) -> None:
    """Rows that only a walk finds."""
    await world.insert(*(f"text {n}" for n in range(count)))
    await world.sql("delete from backline.jobs")


def leases(*pages: LeasedBatch) -> set[int]:
    return {job.lease for page in pages for job in page.jobs if job.lease is not None}


async def closed(world: World) -> None:
    """Wait until the server has noticed that the session of a worker is gone."""

    async def gone() -> bool:
        locks = await world.sql(
            "select 1 from pg_locks l join pg_database d on d.oid = l.database "
            "where l.locktype = 'advisory' and d.datname = current_database()"
        )
        return not locks

    await eventually(gone, "the session to end")


def vector_of(job: Job) -> NewVector:
    [element] = pgvector.vector_elements(hash_vectors([job.content], DIMENSIONS))
    return NewVector(job.key, job.action, job.content_hash, element, job.lease)
