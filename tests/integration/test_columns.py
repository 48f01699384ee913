"""Backline works with unusual names, with every type of key and with every type of column."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from psycopg import sql
from tests.integration.harness import World, declare, make_world, overpaid, standin_embedder
from tests.provider import StandInProvider

from backline import errors
from backline.embedders.hash import HashEmbedder
from backline.postgres.store import Store
from backline.search import Query, search
from backline.verification import verify

KEYS_BY_TYPE = {
    "bigint": ["1", "-7", "9007199254740993"],
    "smallint": ["1", "-7", "32767"],
    "text": ["a", "A", " padded ", "", "it's", 'say "hi"', "100 %s %%", "$1 $$", "ключ", "a\nb"],
    "uuid": ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "numeric": ["1", "1.50", "1.5000000000000000000001"],
    "character(8)": ["abc", "ABCDEFGH", "x y"],
    "varchar(20)": ["abc", "x y "],
    "timestamptz": ["2026-01-02 03:04:05.678901+00", "2026-01-02 03:04:05+00"],
    "date": ["2026-01-02", "0001-01-01"],
    "double precision": ["0.1", "1e300", "-0.5"],
    "inet": ["10.0.0.1", "10.0.0.0/8"],
    "text collate \"C\"": ["b", "B", "a"],
}  # fmt: skip


@pytest.mark.parametrize("key_type", KEYS_BY_TYPE)
async def test_keys_of_every_type_are_followed(store: Store, key_type: str) -> None:
    ddl = f"create table notes (id {key_type} primary key, body text)"
    async with make_world(store, ddl=ddl) as world:
        for n, key in enumerate(KEYS_BY_TYPE[key_type]):
            await world.sql(
                f"insert into notes values (%s::{key_type.partition(' collate')[0]}, %s)",
                key,
                f"text {n}",
            )
        report = await world.fill()
        assert report.embedded == len(KEYS_BY_TYPE[key_type])
        await world.check_complete()
        await world.sql("update notes set body = body || ' again'")
        await world.sql("delete from notes where body = 'text 0 again'")
        await world.check_consistent()
        await world.sql("delete from backline.stamps")  # so that the scan finds the rows
        await world.store.recount(world.collection.id)
        await world.fill()
        await world.check_complete()


KEYS_OF_SEVERAL_COLUMNS: dict[str, tuple[str, list[tuple[object, ...]]]] = {
    "two columns, neither unique": (
        "create table notes (a int, b text, body text, primary key (a, b))",
        [(1, "x"), (1, "y"), (2, "x"), (10, 'say "hi", it\'s'), (10, "[1]"), (10, "")]),
    "a partition by one of them": (
        "create table notes (id bigint, at date, body text, primary key (id, at)) "
        "partition by range (at); "
        "create table notes_1 partition of notes for values from ('2026-01-01') to ('2026-02-01');"
        "create table notes_2 partition of notes for values from ('2026-02-01') to ('2026-03-01')",
        [(1, "2026-01-05"), (1, "2026-02-05"), (2, "2026-01-06"), (3, "2026-02-28")]),
    "three columns with a collation, in another order than the table's": (
        'create table notes (body text, c timestamptz, b text collate "C", a numeric, '
        "primary key (a, b, c))",
        [("2026-01-02 03:04+00", "b", "1.50"), ("2026-01-02 03:04+00", "B", "1.5"),
         ("2026-01-02 03:05+02", "ключ", "-1")]),
}  # fmt: skip


@pytest.mark.parametrize("shape", KEYS_OF_SEVERAL_COLUMNS)
async def test_keys_of_several_columns_are_followed(store: Store, shape: str) -> None:
    ddl, keys = KEYS_OF_SEVERAL_COLUMNS[shape]
    async with make_world(store, ddl=ddl) as world:
        names = [name for name in await columns_of(world) if name not in ("body", "embedding")]
        for n, key in enumerate(keys):
            values = ", ".join(["%s"] * len(key))
            await world.sql(
                f"insert into notes ({', '.join(names)}, body) values ({values}, %s)",
                *key, f"text {n}",
            )  # fmt: skip
        report = await world.fill()
        assert report.embedded == len(keys)
        await world.check_complete()
        await world.sql("update notes set body = body || ' again'")
        await world.sql("delete from notes where body = 'text 0 again'")
        await world.check_consistent()
        for mode in ("semantic", "keyword", "hybrid"):
            query = Query("text 1 again", mode)
            hits = await search(world.store, world.collection, world.embedder, query)
            assert hits[0].content == "text 1 again"
        await world.sql("delete from backline.stamps")  # so that the scan finds the rows
        await world.store.recount(world.collection.id)
        await world.fill()
        await world.check_complete()


async def test_row_whose_key_changes_is_followed(store: Store) -> None:
    ddl = "create table notes (a int, b int, body text, primary key (a, b))"
    async with make_world(store, ddl=ddl) as world:
        await world.sql(
            "insert into notes select i % 3, i, 'text ' || i from generate_series(1, 9) i"
        )
        await world.fill()
        await world.sql("update notes set a = a + 1 where b < 5")
        await world.apply_changes()
        moved = {f'["{b % 3 + 1}", "{b}"]' for b in range(1, 5)}
        assert set(await world.jobs()) == moved
        await world.fill()
        await world.check_complete()


async def columns_of(world: World) -> list[str]:
    rows = await world.sql(
        "select attname from pg_attribute where attrelid = 'notes'::regclass and attnum > 0 "
        "and not attisdropped order by attnum"
    )
    return [row["attname"] for row in rows]


async def test_key_may_be_an_enum_of_another_schema(store: Store) -> None:
    ddl = """
    create schema shop; create type shop."Size" as enum ('small', 'large');
    create domain shop.name as text check (value <> '');
    create table notes (id shop."Size" primary key, body shop.name);
    insert into notes values ('small', 'text 1'), ('large', 'text 2')
    """
    async with make_world(store, ddl=ddl) as world:
        await world.fill()
        await world.check_complete()


async def test_change_of_a_key_to_an_equal_value_renames_the_row(store: Store) -> None:
    """The numerics 1.0 and 1.00 are equal but differ as text; the row takes the new text."""
    ddl = "create table notes (id numeric primary key, body text)"
    async with make_world(store, ddl=ddl) as world:
        await world.sql("insert into notes values (1.0, 'text')")
        await world.fill()
        await world.sql("update notes set id = 1.00")
        await world.check_consistent()
        await world.fill()
        await world.check_complete()


UNUSUAL_NAMES = [
    "order", "user", "MixedCase", "with space", 'with "quotes"', "it's", "100%", "%s", "%1$I",
    "$1", "$q$", "c{d", "semi;colon", "-- comment", "ünïcödé", "r", "s", "key", "content",
    "new_rows", "embedding_", "i", "f", "hash", "position",
]  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
async def test_unusual_identifiers_are_quoted(store: Store, name: str) -> None:
    """Schema, table, key, text and vector columns all have names made from the identifier."""
    quoted = sql.Identifier(name).as_string()
    other = sql.Identifier(name + "2").as_string()
    column = name + "3"
    template = "{" + (name + "2").replace("{", "{").strip() + "}"
    ddl = f"""
    create schema {quoted};
    create table {quoted}.{quoted} ({quoted} int primary key, {other} text, views int default 0);
    """
    embedder = HashEmbedder(4)
    async with make_world(store, ddl=ddl, embedder=embedder, table=f"{quoted}.{quoted}",
                     template=template, column=column) as world:  # fmt: skip
        table = f"{quoted}.{quoted}"
        await world.sql(f"insert into {table} values (1, 'one'), (2, 'two'), (3, '')")
        await world.fill()
        await world.sql(f"update {table} set views = views + 1")
        assert await world.jobs() == {}
        await world.sql(f"update {table} set {other} = 'ONE' where {quoted} = 1")
        assert list(await world.jobs()) == ["1"]
        await world.sql(f"delete from {table} where {quoted} = 2")
        await world.fill()
        checked = await verify(store, world.collection)
        assert (checked.rows, checked.embedded, checked.blank) == (2, 1, 1)
        assert checked.passed
        await store.drop_collection(world.collection, drop_column=True)
        await world.sql(f"update {table} set {other} = 'no trigger is left'")


RENDERED_TEMPLATES: list[tuple[str, dict[str, Any], str]] = [
    ("{a} and {b}", {"a": "one", "b": "two"}, "one and two"),
    ("{a}{b}", {"a": None, "b": "two"}, "two"),
    ("{a} {b}", {"a": None, "b": None}, ""),
    ("  {a}\n{b}\t", {"a": " x ", "b": " y "}, "x \n y"),
    ("{{{a}}}", {"a": "one"}, "{one}"),
    ("100 % of {a}; it's $1, %s and \\n", {"a": "it"}, "100 % of it; it's $1, %s and \\n"),
    ("{ a }", {"a": "spaces inside"}, "spaces inside"),
    ("{a}", {"a": "{b} {{ $q$ %1$I"}, "{b} {{ $q$ %1$I"),
    ("{tags}", {"tags": ["x", "y z"]}, "x, y z"),
    ("{more}", {"more": '{"k": [1, null]}'}, '{"k": [1, null]}'),
    ("{amount} {at} {flag}", {"amount": "1.50", "at": "2026-01-02T03:04:05+02:00", "flag": True},
     "1.50 2026-01-02 01:04:05+00 t"),
    ("{a}", {"a": "ünïcödé 🎛️ \u200b"}, "ünïcödé 🎛️ \u200b"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "row", "text"), RENDERED_TEMPLATES)
async def test_template_renders_a_row(
    store: Store, provider: StandInProvider, template: str, row: dict[str, Any], text: str
) -> None:
    ddl = """
    create table notes (id int primary key, a text, b text, tags text[], more jsonb,
                        amount numeric, at timestamptz, flag boolean)
    """
    async with make_world(store, provider, ddl=ddl, template=template) as world:
        columns = ", ".join(row)
        placeholders = ", ".join(["%s"] * len(row))
        await world.sql(
            f"insert into notes (id, {columns}) values (1, {placeholders})", *row.values()
        )
        await world.fill()
        assert provider.texts_embedded == (Counter([text]) if text else Counter())
        assert (await verify(store, world.collection)).passed


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        ("{body", errors.UsageError, "without a }"),
        ("no column", errors.UsageError, "names no column"),
        ("{{body}}", errors.UsageError, "names no column"),
        ("{nothing}", errors.ColumnNotFoundError, "no column 'nothing'"),
        ("{}", errors.ColumnNotFoundError, "no column"),
    ],
)
async def test_invalid_template_is_rejected(
    store: Store, template: str, error: type[errors.BacklineError], message: str
) -> None:
    with pytest.raises(error, match=message):
        async with make_world(store, template=template):
            pass


async def test_escaped_brace_does_not_name_a_column(store: Store) -> None:
    """Not even if the literal text begins with 'r.', the alias of the row."""
    with pytest.raises(errors.UsageError, match="names no column"):
        async with make_world(store, template="{{r.body"):
            pass


@pytest.mark.parametrize(
    ("ddl", "key", "error"),
    [
        ("create table notes (body text)", None, errors.KeyMissingError),
        ("create table notes (a int not null, b int, body text, unique (a, b))", ["a", "b"],
         errors.KeyMissingError),
        ("create table notes (a int, b int, c int, body text, primary key (a, b, c))", ["a", "b"],
         errors.KeyMissingError),
        ("create table notes (a int, b int, body text, primary key (a, b))", ["a,b"],
         errors.KeyMissingError),
        ("create table notes (id int unique, body text)", ["id"], errors.KeyMissingError),
        ("create table notes (id int not null, body text); "
         "create unique index on notes (id) where id > 5", ["id"], errors.KeyMissingError),
        ("create view notes as select 1 as id, 'x'::text as body", None, errors.TableNotFoundError),
    ],
)  # fmt: skip
async def test_table_without_a_unique_key_is_rejected(
    store: Store, ddl: str, key: list[str] | None, error: type[errors.BacklineError]
) -> None:
    with pytest.raises(error):
        async with make_world(store, ddl=ddl, key=key):
            pass


async def test_unique_column_can_be_the_key(store: Store) -> None:
    ddl = (
        "create table notes (a int, b int, id text not null unique, body text, primary key (a, b))"
    )
    async with make_world(store, ddl=ddl, key="id") as world:
        await world.sql("insert into notes values (1, 1, 'x', 'one'), (1, 2, 'y', 'two')")
        await world.fill()
        await world.check_complete()


async def test_edit_of_a_generated_column_is_followed(
    store: Store, provider: StandInProvider
) -> None:
    ddl = """
    create table notes (id int primary key, raw text,
                        body text generated always as (upper(raw)) stored)
    """
    async with make_world(store, provider, ddl=ddl) as world:
        await world.sql("insert into notes (id, raw) values (1, 'one'), (2, 'two')")
        await world.fill()
        await world.check_complete()
        await world.sql("update notes set raw = 'ONE' where id = 1")  # the same text
        assert await world.jobs() == {}
        await world.sql("update notes set raw = 'three' where id = 1")
        assert list(await world.jobs()) == ["1"]
        await world.fill()
        await world.check_complete()
        assert overpaid(provider) == {}


async def test_virtual_column_in_the_template_is_rejected(store: Store) -> None:
    ddl = """
    create table notes (id int primary key, raw text,
                        body text generated always as (upper(raw)) virtual)
    """
    with pytest.raises(errors.UsageError, match="Make it STORED"):
        async with make_world(store, ddl=ddl):
            pass


@pytest.mark.parametrize("column_type", ["vector", "halfvec"])
async def test_vectors_are_stored_in_both_column_types(
    store: Store, provider: StandInProvider, column_type: str
) -> None:
    async with make_world(store, provider, column_type=column_type) as world:
        await world.insert("one", "two")
        await world.fill()
        await world.check_complete()
        await world.sql("update notes set id = id + 10")  # their vectors are in the cache
        await world.fill()
        await world.check_complete()
        assert overpaid(provider) == {}


async def test_existing_vectors_are_replaced(store: Store, provider: StandInProvider) -> None:
    """Their model is unknown, so Backline embeds the rows again."""
    ddl = """
    create table notes (id int primary key, body text, embedding extensions.vector(8));
    insert into notes values (1, 'one', '[1,0,0,0,0,0,0,0]'), (2, '', '[0,1,0,0,0,0,0,0]'),
                             (3, 'three', null)
    """
    async with make_world(store, provider, ddl=ddl, existing="overwrite") as world:
        await world.fill()
        await world.check_complete()


async def test_schema_changes_of_other_columns_are_harmless(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider) as world:
        await world.insert("one", "two")
        await world.fill()
        await world.sql("alter table notes drop column views")
        await world.sql("alter table notes add column more text default 'x'")
        await world.sql("alter table notes alter column id type int")
        await world.sql("update notes set body = 'ONE' where id = 1")
        await world.fill()
        await world.check_complete()
        assert overpaid(provider) == {}


async def test_dropped_table_is_reported_as_missing(store: Store) -> None:
    async with make_world(store) as world:
        await world.sql("drop table notes")
        world.collection = await store.collection("notes")
        with pytest.raises(errors.TableNotFoundError, match="backline drop notes"):
            await world.fill()


async def test_second_collection_on_a_table_needs_another_column(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider) as world:
        with pytest.raises(errors.BacklineError):
            await declare(store, world.embedder)
        await declare_other(store, provider)
        assert [c.name for c in await store.collections()] == ["notes", "other"]


async def declare_other(store: Store, provider: StandInProvider) -> None:
    table = await store.find_table("notes")
    embedder = standin_embedder(provider, 16)
    await store.add_collection(
        "other", table["oid"], key=None, template="{body}", column="embedding_16",
        model=embedder.model,
    )  # fmt: skip
    await embedder.aclose()
    collection = await store.collection("other")
    world = World(store, collection, embedder, None)  # type: ignore[arg-type]
    assert world.collection.column_dimensions == 16
