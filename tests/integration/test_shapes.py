"""Tables as projects have them are each served by one declaration, unchanged.

Each is filled, verified, followed through edits of its own and searched.
"""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from tests.integration.harness import World, make_world

from backline import errors
from backline.postgres.store import Store
from backline.reconcile import Reconciliation
from backline.search import Query, ensure_index, search
from backline.verification import verify

MODES = ("semantic", "keyword", "hybrid")

RELEASES = """
create schema shape02;
create table shape02.release (company_id int not null, release_id text not null, title text,
  body text, primary key (company_id, release_id));
insert into shape02.release
select c, 'R-' || r, '新製品のお知らせ ' || r,
       'Company ' || c || ' releases product ' || r || '. 本日発売しました。'
from generate_series(1, 20) c, generate_series(1, 25) r
"""
EVENTS = """
create schema shape03;
create table shape03.events (id bigint not null, happened_at date not null, what text,
  primary key (id, happened_at)) partition by range (happened_at);
create table shape03.events_2026_01 partition of shape03.events
  for values from ('2026-01-01') to ('2026-02-01');
create table shape03.events_2026_02 partition of shape03.events
  for values from ('2026-02-01') to ('2026-03-01');
create table shape03.events_2026_03 (like shape03.events including all);
insert into shape03.events select i, '2026-01-01'::date + i % 55, 'Alarm ' || i || ' rang in hall '
  || i % 9 from generate_series(1, 500) i;
insert into shape03.events_2026_03 select 1000 + i, '2026-03-01'::date + i % 25,
  'Lights failed in hall ' || i % 9 from generate_series(1, 100) i
"""
ATTACH = """
alter table shape03.events attach partition shape03.events_2026_03
  for values from ('2026-03-01') to ('2026-04-01')
"""
NOTES = """
create schema shape07;
create table shape07.notes (id bigint primary key, owner text not null,
  shared boolean not null default false, body text not null);
insert into shape07.notes select i, case when i % 400 = 0 then 'ada' else 'u' || i % 1000 end,
  i % 5000 = 1, 'Note ' || i || ' about the meeting on budget line ' || i % 333
  from generate_series(1, 20000) i;
alter table shape07.notes enable row level security;
create policy own on shape07.notes for select using
  (owner = current_setting('request.jwt.claims', true)::jsonb ->> 'sub' or shared)
"""
ORDERS = """
create schema "Shape 10";
create type "Shape 10"."Mood" as enum ('calm', 'loud');
create domain "Shape 10".short as text check (length(value) < 200);
create table "Shape 10"."Order" ("Key" text collate "C" primary key, "select" "Shape 10".short,
  "Mood" "Shape 10"."Mood", "100%" text);
insert into "Shape 10"."Order" select 'ключ-' || i,
  'Line ' || i || ' with "quotes", a {brace} and a \\ backslash',
  (array['calm', 'loud'])[1 + i % 2]::"Shape 10"."Mood", i || ' %' from generate_series(1, 200) i;
create publication shape10 for table "Shape 10"."Order"
"""


async def is_complete(world: World, rows: int) -> None:
    """Assert that `rows` rows are embedded, and that each vector is of its text."""
    await world.fill()
    assert await world.jobs() == {}
    checked = await verify(world.store, world.collection)
    assert checked.passed, checked
    assert (checked.rows, checked.embedded) == (rows, rows)
    coverage = await world.store.checked_coverage(world.collection)
    assert (coverage.rows, coverage.complete) == (rows, True), coverage


async def found(world: World, text: str, mode: str) -> str:
    """Return the key of the best hit."""
    hits = await search(world.store, world.collection, world.embedder, Query(text, mode))  # type: ignore[arg-type]
    return hits[0].key


@pytest.mark.parametrize("into", [None, "release_vectors"])
async def test_key_of_two_columns_and_japanese_text(store: Store, into: str | None) -> None:
    async with make_world(
        store, ddl=RELEASES, table="shape02.release", template="{title} {body}", into=into
    ) as world:
        await is_complete(world, 500)
        await world.sql(
            "update shape02.release set body = 'Recalled 回収' "
            "where (company_id, release_id) = (3, 'R-7')"
        )
        await world.sql("update shape02.release set release_id = 'X' || release_id "
                        "where company_id = 4 and release_id < 'R-12'")  # fmt: skip
        await world.sql("delete from shape02.release where company_id = 5")
        assert '["3", "R-7"]' in await world.jobs()
        await is_complete(world, 475)
        await ensure_index(store, world.collection)
        for mode in MODES:
            assert await found(world, "新製品のお知らせ 7 Recalled 回収", mode) == '["3", "R-7"]'


async def test_partitions_are_followed_when_they_are_written_to_and_attached(store: Store) -> None:
    async with make_world(
        store, ddl=EVENTS, table="shape03.events", template="{what}", into="events_vectors"
    ) as world:
        await is_complete(world, 500)
        await world.sql("update shape03.events_2026_01 set what = 'Quiet again' where id = 56")
        await world.sql(
            "insert into shape03.events_2026_02 values (900, '2026-02-20', 'Door jammed')"
        )
        assert len(await world.jobs()) == 2
        await is_complete(world, 501)
        await world.sql(ATTACH)
        assert await store.problems(world.collection)
        await Reconciliation(store, world.collection).run()
        world.collection = await store.collection("shape03.events")
        await is_complete(world, 601)
        await world.sql("update shape03.events_2026_03 set what = 'Sparks flew' where id = 1001")
        assert list(await world.jobs()) == ['["1001", "2026-03-02"]']
        await is_complete(world, 601)
        await ensure_index(store, world.collection)
        for mode in MODES:
            assert await found(world, "Sparks flew", mode) == '["1001", "2026-03-02"]'
        await world.sql("alter table shape03.events detach partition shape03.events_2026_03")
        await Reconciliation(store, world.collection).run()
        await is_complete(world, 501)


async def test_odd_names_in_a_published_table_with_prepared_transactions(store: Store) -> None:
    table = '"Shape 10"."Order"'
    declaration: dict[str, Any] = {"table": table, "template": "{select} {Mood} {100%}"}
    with pytest.raises(errors.UsageError, match="is published"):
        async with make_world(store, ddl=ORDERS, into=None, **declaration):
            pass
    async with make_world(store, ddl="select 1", into='"Order vectors"', **declaration) as world:
        before = await columns(world)
        await is_complete(world, 200)
        await world.sql("begin")
        await world.sql(f"update {table} set \"Mood\" = 'loud' where \"Key\" = 'ключ-2'")
        await world.sql("prepare transaction 'two'")
        assert await world.jobs() == {}
        await world.sql("commit prepared 'two'")
        assert list(await world.jobs()) == ["ключ-2"]
        await world.sql(f"insert into {table} values ('Ж', 'It''s a new line', 'calm', '100 %')")
        await world.sql(f"delete from {table} where \"Key\" = 'ключ-3'")
        await is_complete(world, 200)
        assert await columns(world) == before
        await ensure_index(store, world.collection)
        for mode in MODES:
            assert await found(world, "It's a new line calm 100 %", mode) == "Ж"


async def columns(world: World) -> list[Any]:
    return await world.sql(
        'select attname from pg_attribute where attrelid = \'"Shape 10"."Order"\'::regclass '
        "and attnum > 0 order by attnum"
    )


# --- row level security ---------------------------------------------------------------------------

VISIBLE = {str(n) for n in range(400, 20001, 400)} | {"1", "5001", "10001", "15001"}


@pytest.mark.parametrize("into", [None, "notes_vectors"])
async def test_search_finds_exactly_the_rows_that_its_caller_sees(
    store: Store, into: str | None
) -> None:
    """50 of 20,000 rows are of one user, and 4 are shared. The HNSW index is built."""
    async with make_world(
        store, ddl=NOTES, table="shape07.notes", template="{body}", into=into
    ) as world:
        await is_complete(world, 20000)
        await ensure_index(store, world.collection)
        assert await store.hnsw_indexes(world.collection), "the backfill has built it"
        query = (await world.embedder.embed(["Note 800 about the meeting"], purpose="query"))[0]
        async with await reader(world) as ada:
            for mode in MODES:
                assert await keys_found(ada, world, mode, query) == VISIBLE
            assert {
                str(r["id"]) for r in await fetch(ada, "select id from shape07.notes")
            } == VISIBLE
            if into is not None:
                side = f"select key_1 from backline_vectors.{into} where embedding is not null"
                assert {str(row["key_1"]) for row in await fetch(ada, side)} == VISIBLE
                await fetch(ada, "select set_config('request.jwt.claims', '{}', false)")
                assert len(await fetch(ada, side)) == 4
        await world.sql("drop owned by ada; drop role ada")


async def reader(world: World) -> psycopg.AsyncConnection[Any]:
    """Connect as a role that may read the notes, with the claims of one user."""
    await world.sql("create role ada")
    await world.sql("grant usage on schema shape07 to ada")
    await world.sql("grant select on shape07.notes to ada")
    if world.collection.into:
        await world.sql("grant usage on schema backline_vectors to ada")
        await world.sql(f"grant select on {'.'.join(world.collection.into)} to ada")
    await world.sql("select backline.allow_search('ada'::regrole)")
    connection = await psycopg.AsyncConnection.connect(
        world.store.connector.conninfo, autocommit=True, row_factory=dict_row
    )
    await connection.execute("set role ada")
    claims = json.dumps({"sub": "ada"})
    await connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
    return connection


async def fetch(connection: psycopg.AsyncConnection[Any], query: str) -> list[Any]:
    return await (await connection.execute(query)).fetchall()


async def keys_found(
    connection: psycopg.AsyncConnection[Any], world: World, mode: str, query: Any
) -> set[str]:
    cursor = await connection.execute(
        "select key from backline.search(%s, %s, 'meeting budget', %s::real[], 100)",
        [world.collection.id, mode, query.tolist()],
    )
    return {row["key"] for row in await cursor.fetchall()}


@pytest.mark.parametrize(
    "ddl",
    [
        "alter table shape07.notes drop column body",
        "alter table shape07.notes rename column id to number",
        "alter table shape07.notes rename to remarks",
        "alter table shape07.notes set schema public",
        "alter table shape07.notes alter column id type int",
        "drop table shape07.notes",
        "drop schema shape07 cascade",
    ],
)
async def test_side_table_prevents_no_change_of_its_source(store: Store, ddl: str) -> None:
    small = NOTES.replace("20000", "20")
    async with make_world(
        store, ddl=small, table="shape07.notes", template="{body}", into="notes_vectors"
    ) as world:
        await world.fill()
        await world.sql(ddl)
        await store.follow(world.collection)
        await store.problems(world.collection)


async def test_nearest_rows_of_a_side_table_are_read_from_its_index(store: Store) -> None:
    async with make_world(
        store, ddl=NOTES, table="shape07.notes", template="{body}", into="notes_vectors"
    ) as world:
        await world.fill()
        [index] = await store.hnsw_indexes(world.collection)
        statement = "select finding from backline.search_statement(%s, 'semantic', null)"
        [row] = await world.sql(statement, world.collection.id)
        types = "int, real[], text, int, jsonb, text, float8, int"
        await world.sql(f"prepare nearest ({types}) as {row['finding']}")
        values = "1, array[1, 0, 0, 0, 0, 0, 0, 0], 'x', 50, null, 'semantic', 0.4, 10"
        plan = await world.sql(f"explain execute nearest({values})")
        assert f"Index Scan using {index.rpartition('.')[2]}" in "\n".join(
            line["QUERY PLAN"] for line in plan
        )
