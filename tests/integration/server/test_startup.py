"""What a server finds when it comes: no keyword index yet, a run whose process was killed."""

from __future__ import annotations

from tests.integration.harness import World
from tests.integration.server.harness import Served, served


async def test_the_first_search_makes_the_keyword_index(world: World, s: Served) -> None:
    await world.insert("a compressor on the drum bus", "a reverb tail")
    await world.store.connector.execute("update backline.keyword_indexes set built_at = null")
    for _ in range(2):
        asked = {"query": "compressor", "mode": "keyword", "collection": "notes"}
        [hit] = (await s.post("/api/search", asked))["hits"]
        assert hit["key"] == "1"


async def test_what_a_killed_process_left_running_is_ended_at_the_start(world: World) -> None:
    run = await world.store.start_run(world.collection, {})
    lease = await world.store.register(world.collection, run, 60, None)
    await world.store.close_session(lease)  # as the end of its process would
    async with served(world.store) as s:
        [record] = (await s.get("/api/runs"))["runs"]
        assert (record["id"], record["state"]) == (run, "interrupted")


async def test_rows_with_an_older_vector_are_counted_as_stale(world: World, s: Served) -> None:
    await world.insert("one", "two", "three")
    await world.fill()
    await world.store.connector.execute("insert into notes (id, body) values (4, 'four')")
    await world.store.connector.execute("update notes set body = body || '!' where id < 3")
    [found] = (await s.get("/api/coverage", collection="notes"))["collections"]
    assert (found["coverage"]["pending"], found["coverage"]["stale"]) == (3, 2)
    [collection] = [c for c in (await s.get("/api/status"))["collections"] if c["name"] == "notes"]
    assert collection["coverage"]["stale"] == 2
