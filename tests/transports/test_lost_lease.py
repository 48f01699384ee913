"""A worker whose rows were taken over sends none of them, over every transport."""

from __future__ import annotations

from backline.postgres.store import Store, open_store
from backline.types import Job
from tests.integration.harness import World, during_call, eventually, new_vector, texts
from tests.provider import StandInProvider
from tests.supabase.stack import Project

TAKE_OVER = """
select c.key, c.action, c.content, c.content_hash, c.attempts, c.lease
from backline.claim(%s, %s, 1000, %s) c
"""


async def take_over(world: World, store: Store) -> int:
    """Let the lease of the world's worker expire, and store its rows. Returns their number."""
    other = await store.register(world.collection, None, 20)
    collection = world.collection
    async with store.connector.transaction() as transaction:
        await transaction.execute(
            "update backline.workers set expires_at = now() - interval '1 s' where id <> %s",
            [other.worker],
        )
        await transaction.execute(
            "select backline.release_dead_workers(%s, %s)", [collection.id, other.worker]
        )
        rows = await transaction.fetch_tuples(
            TAKE_OVER, [collection.id, other.worker, collection.model_id]
        )
    vectors = [new_vector(Job._make(row)) for row in rows]
    assert await store.complete(collection, other.worker, None, vectors, cache=False) == []
    await store.unregister(other)
    return len(rows)


async def test_rows_that_were_taken_over_are_not_sent(
    world: World, project: Project, provider: StandInProvider
) -> None:
    await world.insert(*texts(200))
    async with open_store(project.url) as store:
        async with during_call(world, provider, calls=2) as filling:
            assert await take_over(world, store) == 200

            async def registered() -> bool:
                return bool(await world.sql("select id from backline.workers"))

            await eventually(registered, "the next heartbeat")
            in_flight = provider.in_flight
        assert filling.result().coverage.complete
    assert len(provider.calls) == in_flight
    await world.check_complete()
