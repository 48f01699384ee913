"""The cache of vectors that were paid for: what it saves, and that it stays within its bound."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.integration.harness import World, declare, overpaid, world
from tests.provider import StandInProvider

from backline import pgvector
from backline.embedders.hash import hash_vectors
from backline.postgres.store import Store
from backline.store import NewVector

# What one vector of 8 dimensions is taken for: 4 bytes a dimension and 150 for the row.
BYTES_A_VECTOR = 4 * 8 + 150


@pytest.fixture
async def w(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    async with world(store, provider) as made:
        yield made


def texts(first: int, last: int) -> list[str]:
    return [f"text {n}" for n in range(first, last + 1)]


async def cached(w: World) -> list[int]:
    """The numbers of the vectors in the cache, oldest first."""
    return [row["seq"] for row in await w.sql("select seq from backline.vectors order by seq")]


async def test_a_column_that_was_dropped_is_filled_again_for_nothing(
    w: World, provider: StandInProvider
) -> None:
    await w.insert(*texts(1, 200))
    await w.fill()
    calls = len(provider.calls)
    await w.sql("alter table notes drop column embedding")
    await w.store.drop_collection(w.collection, drop_column=True)
    w.collection = await declare(w.store, w.embedder)
    report = await w.fill()
    assert (report.embedded, report.reused, report.tokens, report.batches) == (200, 200, 0, 0)
    assert len(provider.calls) == calls, "the provider saw no request"
    await w.check_complete()


async def test_the_oldest_go_first(w: World) -> None:
    await w.insert(*texts(1, 300))
    await w.fill()
    newest = (await cached(w))[-100:]
    assert await w.store.trim_cache(100 * BYTES_A_VECTOR) == 200
    assert await cached(w) == newest
    assert await w.store.trim_cache(100 * BYTES_A_VECTOR) == 0
    assert await w.store.trim_cache(1 << 30) == 0


async def test_a_worker_keeps_the_bound(w: World, provider: StandInProvider) -> None:
    await w.insert(*texts(1, 300))
    await w.fill(cache_bytes=50 * BYTES_A_VECTOR)
    assert len(await cached(w)) == 50
    await w.insert(*texts(301, 350), first=301)
    await w.fill(cache_bytes=50 * BYTES_A_VECTOR)
    assert len(await cached(w)) == 50
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_texts_that_are_there_already_make_no_room_for_themselves(w: World) -> None:
    """By the numbers the cache is kept short: a vector that comes again must not draw one."""
    await w.insert("one", "two")
    lease = await w.store.register(w.collection, None, lease=30)
    jobs = await w.store.claim(w.collection, lease.worker, 2)
    for job in (*[jobs[0]] * 5, jobs[1]):
        [element] = pgvector.vector_elements(hash_vectors([job.content], 8))
        new = NewVector(job.key, "embed", job.content_hash, element, job.lease)
        await w.store.complete(w.collection, lease.worker, None, [new], cache=True)
    first, second = await cached(w)
    assert second == first + 1
    await w.store.unregister(lease)
    await w.check_complete()


async def test_a_bound_of_nothing_keeps_nothing(w: World, provider: StandInProvider) -> None:
    await w.insert(*texts(1, 50))
    await w.fill(cache_bytes=0)
    assert await cached(w) == []
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_a_vector_that_went_between_claim_and_write_is_embedded_again(
    w: World, provider: StandInProvider
) -> None:
    """A reuse that finds nothing any more costs a call, and never a row."""
    await w.insert(*texts(1, 40))
    await w.fill()
    await w.sql("delete from backline.stamps")
    await w.store.recount(w.collection.id)
    lease = await w.store.register(w.collection, None, lease=30)
    page = await w.store.claim_batch(w.collection, lease.worker, None, None, 40)
    assert {job.action for job in page.jobs} == {"reuse"}
    await w.store.trim_cache(1)
    assert await cached(w) == []
    await w.store.unregister(lease)
    await w.fill()
    await w.check_complete()
    assert set(overpaid(provider).values()) == {1}
