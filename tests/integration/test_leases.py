"""Who holds what: pages of a walk, workers that lost their connection, answers that were lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
from tests.integration.harness import (
    DIMENSIONS,
    World,
    eventually,
    execute,
    running,
    waits_for_a_lock,
    world,
)
from tests.provider import StandInProvider

from backline import pgvector
from backline.embedders.hash import hash_vectors
from backline.postgres.store import Store
from backline.store import LeasedBatch, NewVector
from backline.types import FailedAttempt, Job


@pytest.fixture
async def w(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    async with world(store, provider) as made:
        yield made


async def test_a_worker_whose_connection_is_cut_is_not_dead_to_itself(w: World) -> None:
    """Or it would free its own rows before it notices, and pay for them again."""
    await w.insert("one", "two")
    lease = await w.store.register(w.collection, None, 20)
    await w.store.claim(w.collection, lease.worker, 10)
    await w.store.close_session(lease)
    await closed(w)
    assert await w.store.release_dead_workers(w.collection, lease.worker) == 0
    assert await w.jobs() == {"1": lease.worker, "2": lease.worker}
    assert await w.store.release_dead_workers(w.collection) == 1
    assert await w.jobs() == {"1": None, "2": None}


async def test_a_worker_that_did_not_hear_of_its_new_lease_keeps_its_rows(w: World) -> None:
    await w.insert("one", "two")
    lease = await w.store.register(w.collection, None, 20)
    await w.store.claim(w.collection, lease.worker, 10)
    await w.store.close_session(lease)
    unheard = await w.store.register(w.collection, None, 20, lease.worker)
    await w.store.close_session(unheard)
    await closed(w)
    assert await w.store.release_dead_workers(w.collection, lease.worker) == 0
    renewed = await w.store.register(w.collection, None, 20, lease.worker)
    assert await w.jobs() == {"1": renewed.worker, "2": renewed.worker}
    assert [row["id"] for row in await w.sql("select id from backline.workers")] == [renewed.worker]
    await w.store.unregister(renewed)


async def test_a_page_whose_answer_was_lost_is_found_again(w: World) -> None:
    await unqueued(w, 3)
    lease = await w.store.register(w.collection, None, 20)
    first = await w.store.claim_batch(w.collection, lease.worker, None, None, 1)
    await w.store.claim_batch(w.collection, lease.worker, None, "1", 2, leases(first))  # unheard
    second = await w.store.claim_batch(w.collection, lease.worker, None, "1", 2, leases(first))
    assert [job.key for job in [*first.jobs, *second.jobs]] == ["1", "2", "3"]
    await w.store.end_finished_batches(lease.worker, leases(second))
    assert await w.jobs() == {"2": lease.worker, "3": lease.worker}
    await w.store.unregister(lease)
    assert await w.jobs() == {"2": None, "3": None}


async def test_two_walks_at_once_share_the_rows(w: World) -> None:
    await unqueued(w, 6)
    one, two = [await w.store.register(w.collection, None, 20) for _ in range(2)]
    first = await w.store.claim_batch(w.collection, one.worker, None, None, 4)
    second = await w.store.claim_batch(w.collection, two.worker, None, None, 6)
    assert [job.key for job in first.jobs] == ["1", "2", "3", "4"]
    assert [job.key for job in second.jobs] == ["5", "6"]
    coverage = await w.store.coverage(w.collection)
    assert (coverage.pending, coverage.in_flight) == (6, 6)
    remain, _ = await w.store.outstanding(w.collection, await w.store.now())
    assert remain
    await w.store.enqueue_page(w.collection, None, 10)
    assert await w.sql("select * from backline.jobs") == []
    await w.store.unregister(one)
    await w.store.unregister(two)


async def test_a_page_leaves_a_row_to_the_edit_that_came_as_it_was_claimed(w: World) -> None:
    """Or its new text would be embedded for the page, and for the edit's job."""
    await unqueued(w, 3)
    lease = await w.store.register(w.collection, None, 20)
    async with w.another_user() as slow:
        await execute(slow, "lock table notes in access exclusive mode")
        claim = "select key from unnest((backline.claim_batch(%s, %s, null, null, 9, %s)).keys) key"
        async with running(
            w.sql(claim, w.collection.id, lease.worker, w.collection.model_id)
        ) as claiming:
            waits = partial(waits_for_a_lock, w.store, "%backline.claim_batch(%")
            await eventually(waits, "the claim to wait for the table", every=0.005)
            await execute(slow, "update notes set body = 'edited' where id = 2")
            await slow.commit()
            assert [row["key"] for row in await claiming] == ["1", "3"]
    await w.store.unregister(lease)


async def test_rows_of_a_dead_worker_are_waited_for_by_whoever_passed_them_by(w: World) -> None:
    """They count from when they were leased: what is freed later was there all along."""
    await unqueued(w, 3)
    dead = await w.store.register(w.collection, None, 20)
    await w.store.claim_batch(w.collection, dead.worker, None, None, 2)
    asked = await w.store.now()
    await w.store.close_session(dead)
    await closed(w)
    assert await w.store.release_dead_workers(w.collection) == 1
    assert await w.jobs() == {"1": None, "2": None}
    assert (await w.store.outstanding(w.collection, asked))[0]


async def test_a_row_of_a_page_that_fails_waits_by_itself(w: World) -> None:
    """The others stay where they are, and what somebody edits at this moment is not touched."""
    await unqueued(w, 4)
    lease = await w.store.register(w.collection, None, 20)
    page = await w.store.claim_batch(w.collection, lease.worker, None, None, 4)
    attempts = [
        FailedAttempt(job.key, job.content_hash or b"", "unavailable", "no", 60.0, job.lease)
        for job in page.jobs[:2]
    ]
    async with w.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 2")
        assert await w.store.fail(w.collection, lease.worker, None, attempts) == ["2"]
        await slow.rollback()
    waits = await w.sql("select key, worker_id, attempts from backline.jobs")
    assert [tuple(row.values()) for row in waits] == [("1", None, 1)]
    [left] = await w.sql("select keys from backline.batch_leases")
    assert sorted(left["keys"]) == ["2", "3", "4"]
    await w.store.unregister(lease)


async def test_a_row_of_a_page_that_was_edited_behind_the_triggers_is_done_again(w: World) -> None:
    await unqueued(w, 2)
    lease = await w.store.register(w.collection, None, 20)
    page = await w.store.claim_batch(w.collection, lease.worker, None, None, 2)
    await w.sql("set session_replication_role = replica")
    await w.sql("update notes set body = 'other' where id = 1")
    await w.sql("set session_replication_role = origin")
    rows = [vector_of(job) for job in page.jobs]
    outcomes = await w.store.complete(w.collection, lease.worker, None, rows, cache=False)
    assert outcomes == [("1", "changed")]
    assert await w.jobs() == {"1": None}
    await w.store.unregister(lease)
    await w.fill()
    await w.check_complete()


async def test_a_row_that_was_stamped_since_its_page_was_leased_spoils_no_other(w: World) -> None:
    """Stamps of rows that had none are inserted without looking, until one is there after all."""
    await unqueued(w, 3)
    lease = await w.store.register(w.collection, None, 20)
    page = await w.store.claim_batch(w.collection, lease.worker, None, None, 3)
    await w.sql("update notes set body = 'other' where id = 2")
    await w.sql("update notes set body = 'text 1' where id = 2")
    [edited] = await w.store.claim(w.collection, lease.worker, 9)
    await w.store.complete(w.collection, lease.worker, None, [vector_of(edited)], cache=False)
    rows = [vector_of(job) for job in page.jobs]
    assert await w.store.complete(w.collection, lease.worker, None, rows, cache=False) == []
    assert await w.store.complete(w.collection, lease.worker, None, rows, cache=False) == []
    await w.store.unregister(lease)
    await w.check_complete()


async def test_stamps_that_are_out_of_date_are_written_over(w: World) -> None:
    await unqueued(w, 3)
    await w.fill()
    await w.sql("update backline.stamps set content_hash = 'x' where key <> '2'")
    lease = await w.store.register(w.collection, None, 20)
    page = await w.store.claim_batch(w.collection, lease.worker, None, None, 3)
    assert [job.key for job in page.jobs] == ["1", "3"]
    assert await w.sql("select stamped from backline.batch_leases") == [{"stamped": True}]
    rows = [vector_of(job) for job in page.jobs]
    assert await w.store.complete(w.collection, lease.worker, None, rows, cache=False) == []
    await w.store.unregister(lease)
    await w.check_complete()


async def unqueued(w: World, count: int) -> None:
    """Rows that only a walk finds."""
    await w.insert(*(f"text {n}" for n in range(count)))
    await w.sql("delete from backline.jobs")


def leases(*pages: LeasedBatch) -> set[int]:
    return {job.lease for page in pages for job in page.jobs if job.lease is not None}


async def closed(w: World) -> None:
    """Wait until the server has noticed that the session of a worker is gone."""

    async def gone() -> bool:
        locks = await w.sql(
            "select 1 from pg_locks l join pg_database d on d.oid = l.database "
            "where l.locktype = 'advisory' and d.datname = current_database()"
        )
        return not locks

    await eventually(gone, "the session to end")


def vector_of(job: Job) -> NewVector:
    [element] = pgvector.vector_elements(hash_vectors([job.content], DIMENSIONS))
    return NewVector(job.key, job.action, job.content_hash, element, job.lease)
