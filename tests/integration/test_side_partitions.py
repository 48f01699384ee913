"""A side table that is partitioned by key range works as one table does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.integration.harness import DIMENSIONS, NOTES, World, connect, declare, make_world

from backline import errors
from backline.embedders.hash import HashEmbedder
from backline.postgres.store import Store
from backline.reconcile import Reconciliation
from backline.search.indexes import ensure_index, ensure_vectors
from backline.search.query import Query, search
from backline.types import Splitting
from backline.verification import verify

SIDE = "backline_vectors.note_vectors"
ROWS = 40
FILLED = (
    f"{NOTES}; insert into notes select i, 'note number ' || i from generate_series(1, {ROWS}) i"
)


@dataclass(frozen=True)
class Shape:
    """A table with rows, and one more row that is inserted later."""

    ddl: str
    added: str
    splitting: Splitting | None = None


SHAPES = {
    "a number": Shape(FILLED, "insert into notes values (1000, 'a later note')"),
    "a text": Shape(
        "create table notes (id text primary key, body text);"
        f"insert into notes select 'k''\\{ROWS}' || i, 'note number ' || i"
        f" from generate_series(1, {ROWS}) i",
        "insert into notes values ('zz', 'a later note')",
    ),
    "a moment and a number": Shape(
        "create table notes (at timestamptz, id int, body text, primary key (at, id));"
        "insert into notes select '2026-01-01'::timestamptz + i % 7 * interval '1 day', i,"
        f" 'note number ' || i from generate_series(1, {ROWS}) i",
        "insert into notes values ('2030-01-01', 1, 'a later note')",
    ),
    "passages": Shape(
        FILLED, "insert into notes values (1000, 'a later note')", Splitting("sentences", 16)
    ),
}


@pytest.fixture
async def world(store: Store) -> AsyncIterator[World]:
    async with make_world(store, ddl=FILLED, into="note_vectors", partitions=4) as world:
        yield world


async def counts(world: World) -> list[int]:
    """Return the vectors in each partition, in the order of their names."""
    rows = await world.sql(
        f"select (select count(*) from {SIDE} s where s.tableoid = t.relid) as vectors"
        f" from pg_partition_tree('{SIDE}') t where t.isleaf order by t.relid::regclass::text"
    )
    return [row["vectors"] for row in rows]


async def find(world: World, text: str) -> list[str]:
    hits = await search(world.store, world.collection, world.embedder, Query(text, "semantic"))
    return [hit.key for hit in hits]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_every_path_works_over_partitions(store: Store, shape: Shape) -> None:
    async with make_world(
        store, ddl=shape.ddl, into="note_vectors", partitions=4, splitting=shape.splitting
    ) as world:
        await world.fill()
        assert await counts(world) == [ROWS / 4] * 4
        await world.sql("update notes set body = 'another text' where body like '% 7'")
        await world.sql("delete from notes where body like '% 8'")
        await world.sql(shape.added)
        await world.fill()
        await world.check_complete()
        await ensure_index(store, world.collection, smallest=1)
        assert len(await find(world, "a later note")) == 10
        await world.sql(f"delete from {SIDE}")
        assert not (await verify(store, world.collection)).passed
        repaired = await Reconciliation(store, world.collection).run()
        assert repaired.enqueued == ROWS
        await world.fill()
        await world.check_complete()
        await store.drop_collection(world.collection, drop_column=True)
        assert await world.sql("select from pg_class where relname like 'note\\_vectors%'") == []


async def test_index_of_each_partition_is_used(world: World) -> None:
    await world.fill()
    assert (await ensure_vectors(world.store, world.collection, smallest=1)).state == "built"
    assert (await ensure_vectors(world.store, world.collection, smallest=1)).state == "in place"
    rebuilt = await ensure_vectors(world.store, world.collection, smallest=1, rebuild=True)
    assert rebuilt.state == "built"
    rows = await world.sql(
        "select x.indexrelid::regclass::text as name, x.indisvalid as valid from pg_index x"
        " join pg_class k on k.oid = x.indexrelid join pg_am a on a.oid = k.relam"
        " where a.amname = 'hnsw'"
    )
    assert len(rows) == 5
    assert all(row["valid"] for row in rows)
    await world.sql("set enable_seqscan = off; set enable_sort = off")
    halves = f"extensions.halfvec({DIMENSIONS})"
    plan = await world.sql(
        f"explain select from {SIDE} order by embedding::{halves}"
        f" operator(extensions.<=>)"
        f" array_fill(1, array[{DIMENSIONS}])::extensions.vector::{halves} limit 3"
    )
    assert sum("_hnsw" in row["QUERY PLAN"] for row in plan) == 4, plan
    assert (await find(world, "note number 7"))[0] == "7"


async def test_index_of_a_partitioned_source_is_built(store: Store) -> None:
    ddl = (
        "create table notes (id bigint primary key, body text) partition by range (id);"
        "create table notes_1 partition of notes for values from (minvalue) to (20);"
        "create table notes_2 partition of notes for values from (20) to (maxvalue);"
        f"insert into notes select i, 'note number ' || i from generate_series(1, {ROWS}) i"
    )
    async with make_world(store, ddl=ddl, column="embedding") as world:
        await world.fill()
        assert (await ensure_vectors(store, world.collection, smallest=1)).state == "built"
        assert (await find(world, "note number 7"))[0] == "7"


async def test_interrupted_index_is_replaced(world: World) -> None:
    await world.fill()
    row = await world.store.connector.fetch_one(
        "select make from backline.vector_index(%s)", [world.collection.id]
    )
    await world.user.execute(row["make"][0])  # of the first partition alone
    assert (await ensure_vectors(world.store, world.collection, smallest=1)).state == "built"


async def test_partitions_that_the_owner_splits_are_followed(world: World) -> None:
    await world.fill()
    await world.sql(
        f"begin; alter table {SIDE} detach partition {SIDE}_4;"
        f"create table {SIDE}_5 partition of {SIDE} for values from (31) to (35);"
        f"create table {SIDE}_6 partition of {SIDE} for values from (35) to (maxvalue);"
        f"insert into {SIDE} select * from {SIDE}_4; drop table {SIDE}_4; commit"
    )
    await world.sql("update notes set body = 'another text' where id > 30")
    await world.fill()
    await world.check_complete()
    assert await counts(world) == [10, 10, 10, 4, 6]


async def test_table_that_the_owner_partitions_afterwards_is_followed(store: Store) -> None:
    async with make_world(store, ddl=FILLED, into="note_vectors") as world:
        await world.fill()
        await world.sql(
            f"begin; create table moved (like {SIDE} including all) partition by range (key_1);"
            "create table low partition of moved for values from (minvalue) to (20);"
            "create table high partition of moved for values from (20) to (maxvalue);"
            f"alter table moved enable row level security; insert into moved select * from {SIDE};"
            f"drop table {SIDE}; alter table moved rename to note_vectors;"
            "alter table note_vectors set schema backline_vectors; commit"
        )
        assert (await Reconciliation(store, world.collection).run()).sound
        await world.sql("update notes set body = 'another text' where id in (5, 25)")
        report = await world.fill()
        assert report.embedded == 2
        await world.check_complete()


async def test_roles_see_their_rows_and_no_partition(world: World) -> None:
    await world.fill()
    await world.sql(
        "create role part_reader; alter default privileges in schema backline_vectors"
        " grant select on tables to part_reader"
    )
    try:
        await world.store.drop_collection(world.collection, drop_column=True)
        await world.sql(
            "alter table notes enable row level security; grant select on notes to part_reader;"
            "create policy few on notes for select using (id <= 2)"
        )
        world.collection = await declare(
            world.store, HashEmbedder(DIMENSIONS), into="note_vectors", partitions=4
        )
        await world.fill()
        await world.sql("set role part_reader")
        assert await world.sql(f"select key_1 from {SIDE} order by 1") == [
            {"key_1": 1}, {"key_1": 2},
        ]  # fmt: skip
        assert await world.sql(f"select key_1 from {SIDE}_1") == []
    finally:
        await world.sql("reset role; drop owned by part_reader; drop role part_reader")


async def test_key_of_another_type_is_reported(world: World) -> None:
    await world.fill()
    await world.sql("alter table notes alter id type text")
    with pytest.raises(errors.KeyMissingError, match=r"cannot take\. Declare the collection again"):
        await world.fill()


BAD: list[tuple[dict[str, Any], type[errors.BacklineError], str]] = [
    ({"into": "v", "partitions": 0}, errors.UsageError, "0 partitions; use 1 to 1000"),
    ({"into": "v", "partitions": 1001}, errors.UsageError, "1001 partitions; use 1 to 1000"),
    ({"partitions": 2}, errors.UsageError, "only a side table.* --into"),
    ({"into": "v", "partitions": 41}, errors.UsageError, "too few rows.* fewer --partitions"),
    ({"into": "taken", "partitions": 4}, errors.CollectionExistsError, "taken_2 exists already"),
]


@pytest.mark.parametrize(("declaration", "error", "message"), BAD)
async def test_what_cannot_be_partitioned_is_refused_and_nothing_is_changed(
    store: Store,
    declaration: dict[str, Any],
    error: type[errors.BacklineError],
    message: str,
) -> None:
    async with await connect(store.connector.conninfo) as user:
        await user.execute(FILLED)
        await user.execute(
            "create schema if not exists backline_vectors;create table backline_vectors.taken_2 ()"
        )
        with pytest.raises(error, match=message):
            await declare(store, HashEmbedder(DIMENSIONS), **declaration)
        assert await store.collections() == []
        made = await user.execute("select from pg_class where relname in ('v', 'taken', 'v_1')")
        assert await made.fetchall() == []
        await user.execute("drop table backline_vectors.taken_2")
