"""Leases survive lost connections, lost responses and concurrent edits."""

from __future__ import annotations

from functools import partial

from tests.integration.harness import (
    World,
    eventually,
    execute,
    new_vector,
    running,
    texts,
    waits_for_lock,
)

from backline.store import LeasedBatch
from backline.types import FailedAttempt


async def test_worker_does_not_release_its_own_leases_after_losing_its_session(
    world: World,
) -> None:
    """Otherwise it would release its rows before it notices, and embed them again."""
    await world.insert("one", "two")
    lease = await world.store.register(world.collection, None, 20)
    await world.store.claim(world.collection, lease.worker, 10)
    await world.store.close_session(lease)
    await world.wait_until_disconnected()
    assert await world.store.release_dead_workers(world.collection, lease.worker) == 0
    assert await world.jobs() == {"1": lease.worker, "2": lease.worker}
    assert await world.store.release_dead_workers(world.collection) == 1
    assert await world.jobs() == {"1": None, "2": None}


async def test_worker_keeps_its_rows_when_the_response_to_its_registration_is_lost(
    world: World,
) -> None:
    await world.insert("one", "two")
    lease = await world.store.register(world.collection, None, 20)
    await world.store.claim(world.collection, lease.worker, 10)
    await world.store.close_session(lease)
    lost = await world.store.register(world.collection, None, 20, lease.worker)
    await world.store.close_session(lost)
    await world.wait_until_disconnected()
    assert await world.store.release_dead_workers(world.collection, lease.worker) == 0
    renewed = await world.store.register(world.collection, None, 20, lease.worker)
    assert await world.jobs() == {"1": renewed.worker, "2": renewed.worker}
    assert [row["id"] for row in await world.sql("select id from backline.workers")] == [
        renewed.worker
    ]
    await world.store.unregister(renewed)


async def test_batch_is_leased_again_after_its_response_was_lost(world: World) -> None:
    await insert_unqueued(world, 3)
    lease = await world.store.register(world.collection, None, 20)
    first = await world.store.claim_batch(world.collection, lease.worker, None, None, 1)
    arguments = (world.collection, lease.worker, None, "1", 2, leases(first))
    await world.store.claim_batch(*arguments)  # the response is lost
    second = await world.store.claim_batch(*arguments)
    assert [job.key for job in [*first.jobs, *second.jobs]] == ["1", "2", "3"]
    await world.store.end_finished_batches(lease.worker, leases(second))
    assert await world.jobs() == {"2": lease.worker, "3": lease.worker}
    await world.store.unregister(lease)
    assert await world.jobs() == {"2": None, "3": None}


async def test_concurrent_scans_share_the_rows(world: World) -> None:
    await insert_unqueued(world, 6)
    left, right = [await world.store.register(world.collection, None, 20) for _ in range(2)]
    first = await world.store.claim_batch(world.collection, left.worker, None, None, 4)
    second = await world.store.claim_batch(world.collection, right.worker, None, None, 6)
    assert [job.key for job in first.jobs] == ["1", "2", "3", "4"]
    assert [job.key for job in second.jobs] == ["5", "6"]
    coverage = await world.store.coverage(world.collection)
    assert (coverage.pending, coverage.in_flight) == (6, 6)
    remain, _ = await world.store.outstanding(world.collection, await world.store.now())
    assert remain
    await world.enqueue(10)
    assert await world.sql("select * from backline.jobs") == []
    await world.store.unregister(left)
    await world.store.unregister(right)


async def test_row_edited_during_the_claim_of_a_batch_gets_no_job(world: World) -> None:
    """Otherwise its new text would be embedded for the batch and for the job of the edit."""
    await insert_unqueued(world, 3)
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
            assert [row["key"] for row in await claiming] == ["1", "2", "3"]
    await world.apply_changes()
    assert await world.sql("select key from backline.jobs") == []
    await world.store.unregister(lease)


async def test_rows_released_by_a_dead_worker_count_as_outstanding_since_their_lease(
    world: World,
) -> None:
    """A scan that skipped them must wait for them, so they count from the time of the lease."""
    await insert_unqueued(world, 3)
    dead = await world.store.register(world.collection, None, 20)
    await world.store.claim_batch(world.collection, dead.worker, None, None, 2)
    skipped = await world.store.now()
    await world.store.close_session(dead)
    await world.wait_until_disconnected()
    assert await world.store.release_dead_workers(world.collection) == 1
    assert await world.jobs() == {"1": None, "2": None}
    assert (await world.store.outstanding(world.collection, skipped))[0]


async def test_failed_row_of_a_batch_becomes_a_single_job(world: World) -> None:
    """The other rows stay in the batch lease, also one that failed while its row was locked."""
    await insert_unqueued(world, 4)
    lease = await world.store.register(world.collection, None, 20)
    batch = await world.store.claim_batch(world.collection, lease.worker, None, None, 4)
    attempts = [
        FailedAttempt(job.key, job.content_hash or b"", "unavailable", "no", 60.0, job.lease)
        for job in batch.jobs[:2]
    ]
    async with world.another_user() as slow:
        await execute(slow, "update notes set body = 'not committed' where id = 2")
        assert await world.store.fail(world.collection, lease.worker, None, attempts) == ["2"]
        await slow.rollback()
    jobs = await world.sql("select key, worker_id, attempts from backline.jobs")
    assert [tuple(row.values()) for row in jobs] == [("1", None, 1)]
    [batch_lease] = await world.sql("select keys from backline.batch_leases")
    assert sorted(batch_lease["keys"]) == ["2", "3", "4"]
    await world.store.unregister(lease)


async def test_row_of_a_batch_edited_without_triggers_is_requeued(
    world: World,
) -> None:
    await insert_unqueued(world, 2)
    lease = await world.store.register(world.collection, None, 20)
    batch = await world.store.claim_batch(world.collection, lease.worker, None, None, 2)
    await world.bypassing_triggers("update notes set body = 'other' where id = 1")
    rows = [new_vector(job) for job in batch.jobs]
    outcomes = await world.store.complete(world.collection, lease.worker, None, rows, cache=False)
    assert outcomes == [("1", "changed")]
    assert await world.jobs() == {"1": None}
    await world.store.unregister(lease)
    await world.fill()
    await world.check_complete()


async def test_row_stamped_after_its_batch_was_leased_does_not_fail_the_batch(
    world: World,
) -> None:
    """The batch inserts its stamps without a look-up, so an existing stamp is a conflict."""
    await insert_unqueued(world, 3)
    lease = await world.store.register(world.collection, None, 20)
    batch = await world.store.claim_batch(world.collection, lease.worker, None, None, 3)
    await world.sql("update notes set body = 'other' where id = 2")
    await world.sql("update notes set body = 'text 1' where id = 2")
    [edited] = await world.store.claim(world.collection, lease.worker, 9)
    await world.store.complete(
        world.collection, lease.worker, None, [new_vector(edited)], cache=False
    )
    rows = [new_vector(job) for job in batch.jobs]
    assert await world.store.complete(world.collection, lease.worker, None, rows, cache=False) == []
    assert await world.store.complete(world.collection, lease.worker, None, rows, cache=False) == []
    await world.store.unregister(lease)
    await world.check_complete()


async def test_outdated_stamps_are_overwritten(world: World) -> None:
    await insert_unqueued(world, 3)
    await world.fill()
    await world.sql("update backline.stamps set content_hash = 'x' where key <> '2'")
    lease = await world.store.register(world.collection, None, 20)
    batch = await world.store.claim_batch(world.collection, lease.worker, None, None, 3)
    assert [job.key for job in batch.jobs] == ["1", "3"]
    assert await world.sql("select stamped from backline.batch_leases") == [{"stamped": True}]
    rows = [new_vector(job) for job in batch.jobs]
    assert await world.store.complete(world.collection, lease.worker, None, rows, cache=False) == []
    await world.store.unregister(lease)
    await world.check_complete()


async def insert_unqueued(world: World, count: int) -> None:
    """Insert rows that only a scan finds."""
    await world.insert(*texts(count, first=0))
    await world.apply_changes()
    await world.sql("delete from backline.jobs")


def leases(batch: LeasedBatch) -> set[int]:
    return {job.lease for job in batch.jobs if job.lease is not None}
