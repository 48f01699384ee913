"""The vector cache saves provider calls and stays within its size limit."""

from __future__ import annotations

from tests.integration.harness import World, declare, new_vector, overpaid, texts
from tests.provider import StandInProvider

# The assumed size of one vector of 8 dimensions: 4 bytes a dimension and 150 for the row.
BYTES_PER_VECTOR = 4 * 8 + 150


async def cached_vectors(world: World) -> list[int]:
    """Return the sequence numbers of the cached vectors, oldest first."""
    return [row["seq"] for row in await world.sql("select seq from backline.vectors order by seq")]


async def test_refill_of_a_dropped_column_uses_only_cached_vectors(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(200))
    await world.fill()
    calls = len(provider.calls)
    await world.sql("alter table notes drop column embedding")
    await world.store.drop_collection(world.collection, drop_column=True)
    world.collection = await declare(world.store, world.embedder)
    report = await world.fill()
    assert (report.embedded, report.reused, report.tokens, report.batches) == (200, 200, 0, 0)
    assert len(provider.calls) == calls, "the provider received a request"
    await world.check_complete()


async def test_trim_removes_the_oldest_vectors_first(world: World) -> None:
    await world.insert(*texts(300))
    await world.fill()
    newest = (await cached_vectors(world))[-100:]
    assert await world.store.trim_cache(100 * BYTES_PER_VECTOR) == 200
    assert await cached_vectors(world) == newest
    assert await world.store.trim_cache(100 * BYTES_PER_VECTOR) == 0
    assert await world.store.trim_cache(1 << 30) == 0


async def test_worker_keeps_the_cache_within_its_limit(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(300))
    await world.fill(cache_bytes=50 * BYTES_PER_VECTOR)
    assert len(await cached_vectors(world)) == 50
    await world.insert(*texts(50, first=301), first=301)
    await world.fill(cache_bytes=50 * BYTES_PER_VECTOR)
    assert len(await cached_vectors(world)) == 50
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_repeated_text_takes_no_sequence_number(world: World) -> None:
    """The trim counts sequence numbers, so a vector that is already cached must not take one."""
    await world.insert("one", "two")
    lease = await world.store.register(world.collection, None, lease=30)
    jobs = await world.store.claim(world.collection, lease.worker, 2)
    for job in (*[jobs[0]] * 5, jobs[1]):
        await world.store.complete(
            world.collection, lease.worker, None, [new_vector(job)], cache=True
        )
    first, second = await cached_vectors(world)
    assert second == first + 1
    await world.store.unregister(lease)
    await world.check_complete()


async def test_limit_of_zero_disables_the_cache(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(50))
    await world.fill(cache_bytes=0)
    assert await cached_vectors(world) == []
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_vector_trimmed_between_claim_and_write_is_embedded_again(
    world: World, provider: StandInProvider
) -> None:
    """The next run embeds the rows of the removed vectors again, and loses none of them."""
    await world.insert(*texts(40))
    await world.fill()
    await world.sql("delete from backline.stamps")
    await world.store.recount(world.collection.id)
    lease = await world.store.register(world.collection, None, lease=30)
    batch = await world.store.claim_batch(world.collection, lease.worker, None, None, 40)
    assert {job.action for job in batch.jobs} == {"reuse"}
    await world.store.trim_cache(1)
    assert await cached_vectors(world) == []
    await world.store.unregister(lease)
    await world.fill()
    await world.check_complete()
    assert set(overpaid(provider).values()) == {1}
