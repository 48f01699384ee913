"""The cache of vectors that were paid for: what it saves, and that it stays within its bound."""

from __future__ import annotations

from tests.integration.harness import World, declare, overpaid
from tests.provider import StandInProvider

from backline import pgvector
from backline.embedders.hash import hash_vectors
from backline.store import NewVector

# What one vector of 8 dimensions is taken for: 4 bytes a dimension and 150 for the row.
BYTES_A_VECTOR = 4 * 8 + 150


def texts(first: int, last: int) -> list[str]:
    return [f"text {n}" for n in range(first, last + 1)]


async def cached(world: World) -> list[int]:
    """The numbers of the vectors in the cache, oldest first."""
    return [row["seq"] for row in await world.sql("select seq from backline.vectors order by seq")]


async def test_a_column_that_was_dropped_is_filled_again_for_nothing(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(1, 200))
    await world.fill()
    calls = len(provider.calls)
    await world.sql("alter table notes drop column embedding")
    await world.store.drop_collection(world.collection, drop_column=True)
    world.collection = await declare(world.store, world.embedder)
    report = await world.fill()
    assert (report.embedded, report.reused, report.tokens, report.batches) == (200, 200, 0, 0)
    assert len(provider.calls) == calls, "the provider saw no request"
    await world.check_complete()


async def test_the_oldest_go_first(world: World) -> None:
    await world.insert(*texts(1, 300))
    await world.fill()
    newest = (await cached(world))[-100:]
    assert await world.store.trim_cache(100 * BYTES_A_VECTOR) == 200
    assert await cached(world) == newest
    assert await world.store.trim_cache(100 * BYTES_A_VECTOR) == 0
    assert await world.store.trim_cache(1 << 30) == 0


async def test_a_worker_keeps_the_bound(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(1, 300))
    await world.fill(cache_bytes=50 * BYTES_A_VECTOR)
    assert len(await cached(world)) == 50
    await world.insert(*texts(301, 350), first=301)
    await world.fill(cache_bytes=50 * BYTES_A_VECTOR)
    assert len(await cached(world)) == 50
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_texts_that_are_there_already_make_no_room_for_themselves(world: World) -> None:
    """By the numbers the cache is kept short: a vector that comes again must not draw one."""
    await world.insert("one", "two")
    lease = await world.store.register(world.collection, None, lease=30)
    jobs = await world.store.claim(world.collection, lease.worker, 2)
    for job in (*[jobs[0]] * 5, jobs[1]):
        [element] = pgvector.vector_elements(hash_vectors([job.content], 8))
        new = NewVector(job.key, "embed", job.content_hash, element, job.lease)
        await world.store.complete(world.collection, lease.worker, None, [new], cache=True)
    first, second = await cached(world)
    assert second == first + 1
    await world.store.unregister(lease)
    await world.check_complete()


async def test_a_bound_of_nothing_keeps_nothing(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(1, 50))
    await world.fill(cache_bytes=0)
    assert await cached(world) == []
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_vector_that_went_between_claim_and_write_is_embedded_again(
    world: World, provider: StandInProvider
) -> None:
    """A reuse that finds nothing any more costs a call, and never a row."""
    await world.insert(*texts(1, 40))
    await world.fill()
    await world.sql("delete from backline.stamps")
    await world.store.recount(world.collection.id)
    lease = await world.store.register(world.collection, None, lease=30)
    page = await world.store.claim_batch(world.collection, lease.worker, None, None, 40)
    assert {job.action for job in page.jobs} == {"reuse"}
    await world.store.trim_cache(1)
    assert await cached(world) == []
    await world.store.unregister(lease)
    await world.fill()
    await world.check_complete()
    assert set(overpaid(provider).values()) == {1}
