"""Kept queries: off by default, bounded, by name, without the person that asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from tests.integration.harness import QUICK, World, make_world, quick_limiter
from typer.testing import CliRunner

from backline import errors, model_change
from backline.backfill import Backfill
from backline.cli.commands import app
from backline.embedders.hash import HashEmbedder
from backline.postgres.store import Store, open_store
from backline.search import kept, query_sets
from backline.search.kept import Asked
from backline.search.query import Mode
from backline.types import ModelChange


@pytest.fixture
async def world(store: Store) -> AsyncIterator[World]:
    async with make_world(store, into=None) as made:
        yield made


async def texts(world: World, name: str = "notes") -> list[str]:
    rows = await world.sql(
        "select text from backline.kept_queries where collection = %s order by text", name
    )
    return [row["text"] for row in rows]


async def keep(world: World, *asked: str, name: str = "notes", mode: Mode = "hybrid") -> None:
    await kept.keep(world.store, {Asked(name, mode, text): 1 for text in asked})


async def change_model(world: World) -> ModelChange:
    """Fill a second target for another model of the notes."""
    embedder = HashEmbedder(16)
    change = await model_change.begin(
        world.store, world.collection, model_change.NewTarget(embedder.model)
    )
    target = await model_change.new_target(world.store, change)
    await Backfill(world.store, target, embedder, quick_limiter(), QUICK).run()
    await model_change.finish(world.store, change)
    return change


async def test_nothing_is_stored_about_the_person_that_asked(world: World) -> None:
    rows = await world.sql(
        "select attname::text as name from pg_attribute where attnum > 0 and not attisdropped "
        "and attrelid = 'backline.kept_queries'::regclass order by attnum"
    )
    assert [row["name"] for row in rows] == [
        "collection", "digest", "mode", "text", "times", "asked_at",
    ]  # fmt: skip


async def test_repeated_queries_are_counted_by_mode(world: World) -> None:
    await kept.keep(world.store, {Asked("notes", "hybrid", "tuba"): 2})
    await kept.keep(
        world.store, {Asked("notes", "hybrid", "tuba"): 3, Asked("notes", "keyword", "tuba"): 1}
    )
    listed = await kept.kept(world.store, world.collection, 10)
    assert {(each.text, each.mode, each.times) for each in listed} == {
        ("tuba", "hybrid", 5), ("tuba", "keyword", 1),
    }  # fmt: skip
    assert await kept.kept_count(world.store, world.collection) == 2


async def test_newest_10000_queries_are_kept(world: World) -> None:
    await keep(world, *(f"old {n}" for n in range(10_000)))
    await keep(world, "old 7", *(f"new {n}" for n in range(50)))
    found = await texts(world)
    assert len(found) == 10_000
    assert "old 7" in found  # asked again since
    assert sum(text.startswith("new") for text in found) == 50


async def test_only_texts_of_up_to_2000_characters_are_kept(world: World) -> None:
    await keep(world, "ü" * 2000, "ü" * 2001)
    assert await texts(world) == ["ü" * 2000]


async def test_queries_stay_with_the_name_through_a_cut_over(world: World) -> None:
    await world.insert("a tuba")
    await world.fill()
    await keep(world, "tuba")
    await change_model(world)
    await model_change.cutover(world.store, "notes")
    await keep(world, "oboe")
    await model_change.discard(world.store, "notes", retire=True)
    serving = await world.store.collection("notes")
    assert serving.id != world.collection.id
    asked = await query_sets.kept_queries(world.store, serving)
    assert list(asked.texts.values()) == ["oboe", "tuba"]
    await world.store.drop_collection(serving, drop_column=False)
    assert await texts(world) == []


async def test_tests_of_a_target_and_unknown_collections_are_not_kept(world: World) -> None:
    await change_model(world)
    await keep(world, "tuba", name="notes@next")
    await model_change.cutover(world.store, "notes")
    await keep(world, "tuba", name="notes@old")
    await keep(world, "tuba", name="songs")
    assert await world.sql("select from backline.kept_queries") == []


async def test_concurrent_keepers_of_the_same_queries_do_not_fail(world: World) -> None:
    async def many(n: int) -> None:
        async with open_store(world.store.connector.conninfo, size=1) as store:
            names = [f"query {m}" for m in range(300)]
            for _ in range(5):
                order = names if n % 2 else names[::-1]
                await kept.keep(store, {Asked("notes", "hybrid", text): 1 for text in order})

    await asyncio.gather(*map(many, range(4)))
    rows = await world.sql("select sum(times) as times from backline.kept_queries")
    assert rows[0]["times"] == 4 * 5 * 300


async def test_evaluation_takes_the_latest_queries_that_have_a_vector(world: World) -> None:
    await keep(world, "by words", mode="keyword")
    with pytest.raises(errors.ConfigurationError, match=r"BACKLINE_KEEP_QUERIES=true.*--judged"):
        await query_sets.kept_queries(world.store, world.collection)
    for text in ("first", "second", "third"):
        await keep(world, text, mode="semantic")
    await keep(world, "first")
    asked = await query_sets.kept_queries(world.store, world.collection, limit=2)
    assert list(asked.texts.values()) == ["first", "third"]


async def test_deleting_queries_deletes_the_evaluations_that_quote_them(world: World) -> None:
    await keep(world, "tuba", "oboe")
    for source in ("kept", "judged", "file"):
        await world.sql(
            "select backline.store_evaluation('notes', 1, 1, %s)", Jsonb({"source": source})
        )
    assert await kept.delete_kept(world.store, world.collection) == 2
    assert await texts(world) == []
    rows = await world.sql("select result ->> 'source' as s from backline.evaluations order by id")
    assert [row["s"] for row in rows] == ["judged", "file"]


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture
async def filled(world: World) -> World:
    await world.insert("a tuba", "an oboe")
    await world.fill()
    return world


def run(database: str, *args: str, **environment: str) -> Any:
    env = {"DATABASE_URL": database, **environment}
    result = CliRunner().invoke(app, [*args, "--json"], env=env)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def listed(database: str) -> list[tuple[str, str, int]]:
    result = run(database, "queries", "notes")
    found = [(each["text"], each["mode"], each["times"]) for each in result["queries"]]
    assert result["kept"] == len(found)
    return sorted(found)


async def on_thread(call: Any, *args: Any, **named: Any) -> Any:
    """Run a command outside the test's event loop, as it starts its own."""
    return await asyncio.to_thread(call, *args, **named)


async def test_search_keeps_queries_only_if_the_setting_allows_it(
    filled: World, database: str
) -> None:
    await on_thread(run, database, "search", "not kept")
    await on_thread(run, database, "suggest", "not kept")
    assert await on_thread(listed, database) == []
    keeping = {"BACKLINE_KEEP_QUERIES": "true"}
    for mode in ("hybrid", "hybrid", "keyword"):
        await on_thread(run, database, "search", " a tuba ", "--mode", mode, **keeping)
    await on_thread(run, database, "search", "page two", "--offset", "1", **keeping)
    await on_thread(run, database, "suggest", "which oboe", **keeping)
    assert await on_thread(listed, database) == [
        ("a tuba", "hybrid", 2), ("a tuba", "keyword", 1), ("which oboe", "hybrid", 1),
    ]  # fmt: skip
    deleted = await on_thread(run, database, "queries", "notes", "--delete")
    assert deleted == {"collection": "notes", "deleted": 3}
    assert await on_thread(listed, database) == []


async def test_search_does_not_fail_if_its_query_cannot_be_kept(
    filled: World, database: str
) -> None:
    await filled.sql("alter table backline.kept_queries add constraint full_up check (times < 0)")
    keeping = {"BACKLINE_KEEP_QUERIES": "true"}
    result = await on_thread(run, database, "search", "a tuba", **keeping)
    assert len(result["hits"]) == 2


async def test_search_does_not_wait_long_to_keep_its_query(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KEEP_SECONDS", 0.1)
    async with world.another_user() as other:
        await other.execute("lock table backline.kept_queries")
        keeping = kept.keep_one(world.store, Asked("notes", "hybrid", "tuba"))
        await asyncio.wait_for(keeping, 8)  # the connection itself waits 10 s for a lock
    assert await texts(world) == []
