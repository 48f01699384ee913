"""Tables as people make them: odd names, all kinds of keys, all kinds of columns."""

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
from backline.verification import verify

KEYS = {
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


@pytest.mark.parametrize("kind", KEYS)
async def test_every_kind_of_key(store: Store, kind: str) -> None:
    ddl = f"create table notes (id {kind} primary key, body text)"
    async with make_world(store, ddl=ddl) as w:
        for n, key in enumerate(KEYS[kind]):
            await w.sql(
                f"insert into notes values (%s::{kind.partition(' collate')[0]}, %s)",
                key,
                f"text {n}",
            )
        report = await w.fill()
        assert report.embedded == len(KEYS[kind])
        await w.check_complete()
        await w.sql("update notes set body = body || ' again'")
        await w.sql("delete from notes where body = 'text 0 again'")
        await w.check_consistent()
        await w.sql("delete from backline.stamps")  # found by the walk
        await w.store.recount(w.collection.id)
        await w.fill()
        await w.check_complete()


async def test_an_enumerated_key_of_another_schema(store: Store) -> None:
    ddl = """
    create schema shop; create type shop."Size" as enum ('small', 'large');
    create domain shop.name as text check (value <> '');
    create table notes (id shop."Size" primary key, body shop.name);
    insert into notes values ('small', 'text 1'), ('large', 'text 2')
    """
    async with make_world(store, ddl=ddl) as w:
        await w.fill()
        await w.check_complete()


async def test_keys_that_are_equal_and_read_differently(store: Store) -> None:
    """numeric 1.0 and 1.00 are one key in two spellings: the row is known by the new one."""
    ddl = "create table notes (id numeric primary key, body text)"
    async with make_world(store, ddl=ddl) as w:
        await w.sql("insert into notes values (1.0, 'text')")
        await w.fill()
        await w.sql("update notes set id = 1.00")
        await w.check_consistent()
        await w.fill()
        await w.check_complete()


ODD_NAMES = [
    "order", "user", "MixedCase", "with space", 'with "quotes"', "it's", "100%", "%s", "%1$I",
    "$1", "$q$", "c{d", "semi;colon", "-- comment", "ünïcödé", "r", "s", "key", "content",
    "new_rows", "embedding_", "i", "f", "hash", "position",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names_of_everything(store: Store, name: str) -> None:
    """Schema, table, key, text and vector columns all have the odd name, as far as they can."""
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
                     template=template, column=column) as w:  # fmt: skip
        table = f"{quoted}.{quoted}"
        await w.sql(f"insert into {table} values (1, 'one'), (2, 'two'), (3, '')")
        await w.fill()
        await w.sql(f"update {table} set views = views + 1")
        assert await w.jobs() == {}
        await w.sql(f"update {table} set {other} = 'ONE' where {quoted} = 1")
        assert list(await w.jobs()) == ["1"]
        await w.sql(f"delete from {table} where {quoted} = 2")
        await w.fill()
        checked = await verify(store, w.collection)
        assert (checked.rows, checked.embedded, checked.blank) == (2, 1, 1)
        assert checked.passed
        await store.drop_collection(w.collection, drop_column=True)
        await w.sql(f"update {table} set {other} = 'free'")


TEMPLATES: list[tuple[str, dict[str, Any], str]] = [
    ("{a} and {b}", {"a": "one", "b": "two"}, "one and two"),
    ("{a}{b}", {"a": None, "b": "two"}, "two"),
    ("{a} {b}", {"a": None, "b": None}, ""),
    ("  {a}\n{b}\t", {"a": " x ", "b": " y "}, "x \n y"),
    ("{{{a}}}", {"a": "one"}, "{one}"),
    ("100 % of {a}; it's $1, %s and \\n", {"a": "it"}, "100 % of it; it's $1, %s and \\n"),
    ("{ a }", {"a": "spaces inside"}, "spaces inside"),
    ("{a}", {"a": "{b} {{ $q$ %1$I"}, "{b} {{ $q$ %1$I"),
    ("{tags}", {"tags": ["x", "y z"]}, '{x,"y z"}'),
    ("{more}", {"more": '{"k": [1, null]}'}, '{"k": [1, null]}'),
    ("{amount} {at} {flag}", {"amount": "1.50", "at": "2026-01-02T03:04:05+02:00", "flag": True},
     "1.50 2026-01-02 01:04:05+00 t"),
    ("{a}", {"a": "ünïcödé 🎛️ \u200b"}, "ünïcödé 🎛️ \u200b"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "row", "text"), TEMPLATES)
async def test_what_a_template_makes_of_a_row(
    store: Store, provider: StandInProvider, template: str, row: dict[str, Any], text: str
) -> None:
    ddl = """
    create table notes (id int primary key, a text, b text, tags text[], more jsonb,
                        amount numeric, at timestamptz, flag boolean)
    """
    async with make_world(store, provider, ddl=ddl, template=template) as w:
        columns = ", ".join(row)
        marks = ", ".join(["%s"] * len(row))
        await w.sql(f"insert into notes (id, {columns}) values (1, {marks})", *row.values())
        await w.fill()
        assert provider.texts_embedded == (Counter([text]) if text else Counter())
        assert (await verify(store, w.collection)).passed


@pytest.mark.parametrize(
    ("template", "error", "says"),
    [
        ("{body", errors.UsageError, "without a }"),
        ("no column", errors.UsageError, "names no column"),
        ("{{body}}", errors.UsageError, "names no column"),
        ("{nothing}", errors.ColumnNotFoundError, "no column 'nothing'"),
        ("{}", errors.ColumnNotFoundError, "no column"),
    ],
)
async def test_templates_that_make_no_sense(
    store: Store, template: str, error: type[errors.BacklineError], says: str
) -> None:
    with pytest.raises(error, match=says):
        async with make_world(store, template=template):
            pass


async def test_a_template_may_hold_what_looks_like_a_column(store: Store) -> None:
    """A literal that begins with 'r.' is no column."""
    with pytest.raises(errors.UsageError, match="names no column"):
        async with make_world(store, template="{{r.body"):
            pass


@pytest.mark.parametrize(
    ("ddl", "key", "error"),
    [
        ("create table notes (body text)", None, errors.KeyMissingError),
        ("create table notes (a int, b int, body text, primary key (a, b))", None,
         errors.KeyMissingError),
        ("create table notes (id int unique, body text)", "id", errors.KeyMissingError),
        ("create table notes (id int not null, body text); "
         "create unique index on notes (id) where id > 5", "id", errors.KeyMissingError),
        ("create view notes as select 1 as id, 'x'::text as body", None, errors.TableNotFoundError),
    ],
)  # fmt: skip
async def test_tables_whose_rows_cannot_be_told_apart(
    store: Store, ddl: str, key: str | None, error: type[errors.BacklineError]
) -> None:
    with pytest.raises(error):
        async with make_world(store, ddl=ddl, key=key):
            pass


async def test_a_unique_column_may_be_the_key(store: Store) -> None:
    ddl = (
        "create table notes (a int, b int, id text not null unique, body text, primary key (a, b))"
    )
    async with make_world(store, ddl=ddl, key="id") as w:
        await w.sql("insert into notes values (1, 1, 'x', 'one'), (1, 2, 'y', 'two')")
        await w.fill()
        await w.check_complete()


async def test_a_generated_column_in_the_text(store: Store, provider: StandInProvider) -> None:
    ddl = """
    create table notes (id int primary key, raw text,
                        body text generated always as (upper(raw)) stored)
    """
    async with make_world(store, provider, ddl=ddl) as w:
        await w.sql("insert into notes (id, raw) values (1, 'one'), (2, 'two')")
        await w.fill()
        await w.check_complete()
        await w.sql("update notes set raw = 'ONE' where id = 1")  # reads the same
        assert await w.jobs() == {}
        await w.sql("update notes set raw = 'three' where id = 1")
        assert list(await w.jobs()) == ["1"]
        await w.fill()
        await w.check_complete()
        assert overpaid(provider) == {}


async def test_a_virtual_column_in_the_text_is_refused(store: Store) -> None:
    ddl = """
    create table notes (id int primary key, raw text,
                        body text generated always as (upper(raw)) virtual)
    """
    with pytest.raises(errors.UsageError, match="Make it STORED"):
        async with make_world(store, ddl=ddl):
            pass


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
async def test_both_kinds_of_vector_columns(
    store: Store, provider: StandInProvider, kind: str
) -> None:
    async with make_world(store, provider, column_type=kind) as w:
        await w.insert("one", "two")
        await w.fill()
        await w.check_complete()
        await w.sql("update notes set id = id + 10")  # from the cache
        await w.fill()
        await w.check_complete()
        assert overpaid(provider) == {}


async def test_a_column_that_was_there_before(store: Store, provider: StandInProvider) -> None:
    """A project's own vectors, of unknown origin, are made anew."""
    ddl = """
    create table notes (id int primary key, body text, embedding extensions.vector(8));
    insert into notes values (1, 'one', '[1,0,0,0,0,0,0,0]'), (2, '', '[0,1,0,0,0,0,0,0]'),
                             (3, 'three', null)
    """
    async with make_world(store, provider, ddl=ddl) as w:
        await w.fill()
        await w.check_complete()


async def test_columns_that_come_and_go(store: Store, provider: StandInProvider) -> None:
    async with make_world(store, provider) as w:
        await w.insert("one", "two")
        await w.fill()
        await w.sql("alter table notes drop column views")
        await w.sql("alter table notes add column more text default 'x'")
        await w.sql("alter table notes alter column id type int")
        await w.sql("update notes set body = 'ONE' where id = 1")
        await w.fill()
        await w.check_complete()
        assert overpaid(provider) == {}


async def test_a_renamed_table_is_said_to_be_gone(store: Store) -> None:
    async with make_world(store) as w:
        await w.insert("one")
        await w.sql("alter table notes rename to renamed")
        w.collection = await store.collection("notes")
        with pytest.raises(errors.TableNotFoundError, match="backline drop notes"):
            await w.fill()


async def test_two_collections_of_one_table_need_two_columns(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider) as w:
        with pytest.raises(errors.BacklineError):
            await declare(store, w.embedder)
        await declare_other(store, provider)
        assert [c.name for c in await store.collections()] == ["music_knowledge", "notes", "other"]


async def declare_other(store: Store, provider: StandInProvider) -> None:
    found = await store.find_table("notes")
    embedder = standin_embedder(provider, 16)
    await store.add_collection(
        "other", found["oid"], key=None, template="{body}", column="embedding_16",
        model=embedder.model,
    )  # fmt: skip
    await embedder.aclose()
    made = await store.collection("other")
    w = World(store, made, embedder, None)  # type: ignore[arg-type]
    assert w.collection.column_dimensions == 16
