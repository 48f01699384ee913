"""State that a server finds at its start: no keyword index, a run of a killed process."""

from __future__ import annotations

from tests.integration.harness import World
from tests.integration.server.harness import Served, served


async def test_first_search_builds_the_keyword_index(world: World, server: Served) -> None:
    await world.insert("a compressor on the drum bus", "a reverb tail")
    await world.store.connector.execute("update backline.keyword_indexes set built_at = null")
    for _ in range(2):
        request = {"query": "compressor", "mode": "keyword", "collection": "notes"}
        [hit] = (await server.post("/api/search", request))["hits"]
        assert hit["key"] == "1"


async def test_run_of_a_killed_process_is_interrupted_at_startup(world: World) -> None:
    run = await world.store.start_run(world.collection, {})
    lease = await world.store.register(world.collection, run, 60, None)
    await world.store.close_session(lease)  # as when its process ends
    async with served(world.store) as server:
        [record] = (await server.get("/api/runs"))["runs"]
        assert (record["id"], record["state"]) == (run, "interrupted")
