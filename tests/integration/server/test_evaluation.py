"""Evaluations and kept queries over HTTP and the WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.harness import QUICK, World, eventually, quick_limiter
from tests.integration.server.harness import Served, served

from backline import model_change
from backline.backfill import Backfill
from backline.embedders.hash import HashEmbedder
from backline.search import compare, query_sets
from backline.server import query_log

PATH = "/api/collections/notes/evaluation"


@pytest.fixture
async def filled(world: World) -> World:
    """Notes with a filled candidate of another model."""
    for n in range(1, 21):
        await world.sql(
            "insert into notes (id, body, title) values (%s, %s, %s)",
            n, f"alpha note number {n}", f"Note {n}",
        )  # fmt: skip
    await world.fill()
    embedder = HashEmbedder(16)
    target = model_change.NewTarget(embedder.model, column="other")
    change = await model_change.begin(world.store, world.collection, target)
    candidate = await model_change.new_target(world.store, change)
    await Backfill(world.store, candidate, embedder, quick_limiter(), QUICK).run()
    return world


@pytest.fixture
async def keeping(filled: World) -> AsyncIterator[Served]:
    """A server that keeps queries."""
    async with served(filled.store, keep_queries=True) as made:
        yield made


async def ended(server: Served) -> dict[str, Any]:
    """Wait until no evaluation runs, and return what the server has."""
    answer: dict[str, Any] = {}

    async def idle() -> bool:
        answer.update(await server.get(PATH))
        return not answer["running"]

    await eventually(idle, "the evaluation to end")
    return answer


async def kept(world: World) -> set[tuple[str, str, int]]:
    rows = await world.sql("select text, mode, times from backline.kept_queries")
    return {(row["text"], row["mode"], row["times"]) for row in rows}


async def test_evaluation_is_started_stored_and_returned(keeping: Served, filled: World) -> None:
    assert await keeping.get(PATH) == {"evaluation": None, "running": False, "failed": None}
    started = await keeping.post(PATH, {"queries": ["alpha", "note 7", "alpha"]}, 202)
    assert started["running"] is True
    answer = await ended(keeping)
    evaluation = answer["evaluation"]
    assert answer["failed"] is None
    assert evaluation["queries"] == 2
    stored = await compare.latest_evaluation(filled.store, filled.collection)
    assert stored is not None
    assert {name: evaluation[name] for name in stored.result} == stored.result
    [semantic, hybrid] = evaluation["modes"]
    assert (semantic["mode"], hybrid["mode"]) == ("semantic", "hybrid")
    assert semantic["moved"][0]["serving"][0]["title"].startswith("Note ")


async def test_kept_queries_are_the_default(keeping: Served) -> None:
    await keeping.post("/api/search", {"query": "alpha note", "collection": "notes"})
    await keeping.services.query_log.flush()
    await keeping.post(PATH, {}, 202)
    evaluation = (await ended(keeping))["evaluation"]
    assert (evaluation["source"], evaluation["queries"]) == ("kept", 1)


async def test_refusals_say_what_to_do(keeping: Served, filled: World) -> None:
    none_kept = await keeping.post(PATH, {}, 409)
    assert "BACKLINE_KEEP_QUERIES" in none_kept["detail"]
    blank = await keeping.post(PATH, {"queries": [" "]}, 422)
    assert "no query with text" in blank["detail"]
    missing = await keeping.post("/api/collections/songs/evaluation", {"queries": ["a"]}, 404)
    assert "'songs'" in missing["detail"]
    other = await keeping.post(PATH, {"queries": ["a"], "candidate": "nope"}, 404)
    assert "'nope'" in other["detail"]
    long = await keeping.post(PATH, {"queries": ["a" * 2001]}, 422)
    assert "2,001" in long["detail"]
    await filled.sql("insert into notes (id, body) values (77, 'new')")
    incomplete = await keeping.post(PATH, {"queries": ["a"]}, 409)
    assert "20 of 21 rows" in incomplete["detail"]
    await keeping.post(PATH, {"queries": ["a"], "partial": True}, 202)
    assert (await ended(keeping))["evaluation"]["candidate"]["complete"] is False


async def test_evaluation_needs_the_key_since_it_quotes_users(filled: World) -> None:
    async with served(filled.store, key="a key") as server:
        await server.get(PATH)
        del server.http.headers["Authorization"]
        await server.get(PATH, 401)
        await server.post(PATH, {"queries": ["alpha"]}, 401)
        assert await server.get("/api/coverage")


async def test_one_evaluation_of_a_collection_runs_at_a_time(
    keeping: Served, filled: World
) -> None:
    async with filled.another_user() as other:
        await other.execute("lock table notes")  # searches wait
        await keeping.post(PATH, {"queries": ["alpha"]}, 202)
        busy = await keeping.post(PATH, {"queries": ["alpha"]}, 409)
        assert "is running" in busy["detail"]
    assert (await ended(keeping))["evaluation"] is not None


async def test_failure_in_the_background_is_reported(keeping: Served, filled: World) -> None:
    async with filled.another_user() as other:
        await other.execute("lock table notes")
        await keeping.post(PATH, {"queries": ["alpha"]}, 202)
        await other.execute("alter table notes drop column other")
        await other.commit()
    answer = await ended(keeping)
    assert "other" in answer["failed"]
    assert answer["evaluation"] is None


# --- kept queries ---------------------------------------------------------------------------------


async def test_queries_are_not_kept_by_default(filled: World) -> None:
    async with served(filled.store) as server:
        await server.post("/api/search", {"query": "alpha", "collection": "notes"})
        await server.services.query_log.flush()
    assert await kept(filled) == set()


async def test_every_way_to_search_keeps_its_query_once(keeping: Served, filled: World) -> None:
    await keeping.post("/api/search", {"query": " alpha ", "collection": "notes"})
    await keeping.get("/api/search", q="alpha", collection="notes", offset=5)
    await keeping.get("/api/search", q="by words", collection="notes", mode="keyword")
    await keeping.post("/api/suggest", {"prompt": "advice", "collection": "notes"})
    socket = await keeping.socket()
    await socket.request("search", "search_results", query="alpha", collection="notes")
    await keeping.post("/api/search", {"query": "fails", "collection": "notes", "where": "x"}, 422)
    await keeping.post("/v1/embeddings", {"input": "not a search", "model": "hash@8"})
    assert await kept(filled) == set()  # a search does not write
    await keeping.services.query_log.flush()
    assert await kept(filled) == {
        ("alpha", "hybrid", 2), ("by words", "keyword", 1), ("advice", "hybrid", 1),
    }  # fmt: skip


async def test_buffer_is_flushed_in_the_background_and_at_the_end(
    filled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_log, "FLUSH_SECONDS", 0.05)
    async with served(filled.store, keep_queries=True) as server:
        await server.post("/api/search", {"query": "alpha", "collection": "notes"})

        async def flushed() -> bool:
            return await kept(filled) == {("alpha", "hybrid", 1)}

        await eventually(flushed, "the query to be kept")
    monkeypatch.setattr(query_log, "FLUSH_SECONDS", 1000)
    async with served(filled.store, keep_queries=True) as server:
        await server.post("/api/search", {"query": "alpha", "collection": "notes"})
    assert await kept(filled) == {("alpha", "hybrid", 2)}


async def test_database_that_stores_no_query_fails_no_search(
    keeping: Served, filled: World
) -> None:
    await filled.sql("alter table backline.kept_queries add constraint never check (times < 0)")
    for _ in range(2):
        await keeping.post("/api/search", {"query": "alpha", "collection": "notes"})
        await keeping.services.query_log.flush()
    await filled.sql("alter table backline.kept_queries drop constraint never")
    await keeping.post("/api/search", {"query": "beta", "collection": "notes"})
    await keeping.services.query_log.flush()
    assert await kept(filled) == {("beta", "hybrid", 1)}


async def test_buffer_is_bounded(
    keeping: Served, filled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_log, "MOST_BUFFERED", 2)
    log = keeping.services.query_log
    for text in ("one", "two", "three", "one"):
        log.add(filled.collection, "hybrid", text)
    await log.flush()
    assert await kept(filled) == {("one", "hybrid", 2), ("two", "hybrid", 1)}
    asked = await query_sets.kept_queries(filled.store, filled.collection)
    assert sorted(asked.texts.values()) == ["one", "two"]
