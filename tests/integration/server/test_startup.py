"""State that a server finds at its start: no keyword index, a run of a killed process."""

from __future__ import annotations

from tests.integration.harness import World
from tests.integration.server.harness import Served, served

from backline import search


async def test_search_says_that_the_keyword_index_is_not_complete(
    world: World, server: Served
) -> None:
    """The search answers from the rows that are indexed, and builds nothing."""
    await world.insert("a compressor on the drum bus", "a reverb tail")
    request = {"query": "compressor", "mode": "keyword", "collection": "notes"}
    await world.store.connector.execute("update backline.keyword_indexes set built_at = null")
    for _ in range(2):
        assert not (await server.post("/api/search", request))["complete"]
    await search.ensure_index(world.store, world.collection)
    answer = await server.post("/api/search", request)
    assert answer["complete"]
    assert [hit["key"] for hit in answer["hits"]] == ["1"]


async def test_run_of_a_killed_process_is_interrupted_at_startup(world: World) -> None:
    run = await world.store.start_run(world.collection, {})
    lease = await world.store.register(world.collection, run, 60, None)
    await world.store.close_session(lease)  # as when its process ends
    async with served(world.store) as server:
        [record] = (await server.get("/api/runs"))["runs"]
        assert (record["id"], record["state"]) == (run, "interrupted")
