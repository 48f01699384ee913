"""A declaration that cannot work is refused with a remedy, before anything is changed."""

from __future__ import annotations

import subprocess
from typing import Any

import psycopg
import pytest
from tests.integration.harness import DIMENSIONS, NOTES, execute, make_world

from backline import errors
from backline.embedders.hash import HashEmbedder
from backline.postgres import migrate
from backline.postgres.connector import Connector
from backline.postgres.store import Store, open_store
from backline.search import ensure_index

MODEL = HashEmbedder(DIMENSIONS).model
VECTOR = f"alter table notes add embedding extensions.vector({DIMENSIONS})"
SUPABASE = """
create role supabase_admin; create schema auth authorization supabase_admin;
create table auth.users (id int primary key, body text)
"""
PARTITIONED = """
create table notes (id bigint primary key, body text) partition by range (id);
create table january partition of notes for values from (0) to (1000)
"""
UNIQUE = "create table notes (id bigint not null unique, body text)"
STATE = """
select (select count(*) from pg_attribute where attnum > 0) as columns,
       (select count(*) from pg_trigger) as triggers, (select count(*) from pg_proc) as functions,
       (select count(*) from backline.collections) as collections,
       (select count(*) from backline.models) as models
"""


async def add(store: Store, table: str = "notes", name: str = "other", **declaration: Any) -> int:
    """Declare a table, by default with the column `embedding` and the template {body}."""
    found = await store.find_table(table)
    values = {"key": None, "template": "{body}", "column": "embedding", "model": MODEL}
    return await store.add_collection(name, found["oid"], **{**values, **declaration})


async def refused(
    store: Store, error: type[errors.BacklineError], message: str, **declaration: Any
) -> None:
    """Assert that a declaration is refused, and that it changed nothing in the database."""
    before = await store.connector.fetch_one(STATE)
    with pytest.raises(error, match=message):
        await add(store, **declaration)
    assert await store.connector.fetch_one(STATE) == before


# --- relations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "table", "error", "message"),
    [
        ("create view v as select * from notes", "v", errors.TableNotFoundError,
         "not a table but a view"),
        ("create materialized view v as select * from notes", "v", errors.TableNotFoundError,
         "a materialized view"),
        ("create sequence s", "s", errors.TableNotFoundError, "a sequence"),
        ("create foreign data wrapper w; create server s foreign data wrapper w; "
         "create foreign table f (id int, body text) server s", "f", errors.TableNotFoundError,
         "a foreign table"),
        ("", "backline.collections", errors.UsageError, "belongs to Backline"),
        ("", "supabase_migrations.schema_migrations", errors.UsageError, "belongs to Backline"),
        ("", "pg_class", errors.UsageError, "belongs to Postgres"),
        ("", "information_schema.sql_features", errors.UsageError, "belongs to Postgres"),
        (SUPABASE, "auth.users", errors.UsageError, "belongs to Supabase"),
        ("alter extension vector add table notes", "notes", errors.UsageError, "an extension"),
        ("create table child () inherits (notes)", "notes", errors.UsageError,
         "child inherits from public.notes.*no inherit"),
        ("create table child () inherits (notes)", "child", errors.UsageError, "no inherit"),
        ("create rule r as on update to notes do instead nothing", "notes", errors.UsageError,
         "a rule that replaces"),
    ],
)  # fmt: skip
async def test_relation_that_is_no_table_of_the_application_is_refused(
    store: Store, ddl: str, table: str, error: type[errors.BacklineError], message: str
) -> None:
    await store.connector.execute(NOTES)
    await store.connector.execute(ddl or "select 1")
    await refused(store, error, message, table=table)
    if "supabase" in ddl:  # roles belong to the whole server
        await store.connector.execute("drop schema auth cascade; drop role supabase_admin")


async def test_temporary_table_is_refused(store: Store) -> None:
    with pytest.raises(errors.UsageError, match="temporary"):
        async with store.connector.transaction() as transaction:
            await transaction.execute(
                "create temporary table notes (id int primary key, body text)"
            )
            await transaction.execute(
                "select backline.add_collection('x', 'notes', null, '{body}', 'embedding', "
                "'hash', 'hash', '1', 8)"
            )


async def test_schema_named_auth_of_the_application_is_accepted(store: Store) -> None:
    await store.connector.execute(
        "create schema auth; create table auth.notes (id int primary key, body text)"
    )
    await add(store, "auth.notes")


async def test_partition_is_refused_and_its_parent_is_named(store: Store) -> None:
    await store.connector.execute(PARTITIONED)
    await refused(
        store, errors.UsageError, "Declare the parent: backline add public.notes", table="january"
    )
    await add(store)


async def test_foreign_partition_is_refused(store: Store) -> None:
    await store.connector.execute(
        "create table notes (id bigint, body text) partition by range (id);"
        "create foreign data wrapper w; create server s foreign data wrapper w;"
        "create foreign table f partition of notes for values from (0) to (1000) server s"
    )
    await refused(store, errors.UsageError, "has a foreign table as a partition")


async def test_inheritance_that_ended_is_accepted(store: Store) -> None:
    await store.connector.execute(NOTES)
    await store.connector.execute("create table child () inherits (notes)")
    await store.connector.execute("alter table child no inherit notes")
    await add(store)


# --- columns and templates ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "declaration", "error", "message"),
    [
        ("", {"column": "body"}, errors.DimensionMismatchError, "body.*of type text.*--column"),
        ("", {"column": "id"}, errors.DimensionMismatchError, "of type int8"),
        ("", {"column": "ctid"}, errors.UsageError, "system column"),
        ("", {"column": ""}, errors.UsageError, "0 bytes"),
        ("", {"column": "é" * 32}, errors.UsageError, "64 bytes"),
        ("", {"column_type": "text"}, errors.UsageError, "vector or halfvec"),
        (f"{VECTOR} generated always as (null) stored", {}, errors.UsageError, "generated"),
        (f"{VECTOR} unique", {}, errors.UsageError, "part of a key"),
        (f"{VECTOR} not null", {}, errors.UsageError, "alter column embedding drop not null"),
        ("alter table notes add embedding extensions.vector(9)", {}, errors.DimensionMismatchError,
         "9 dimensions.*gives 8.*--column embedding_8"),
        (VECTOR, {"template": "{body} {embedding}"}, errors.UsageError, "reads embedding"),
        (VECTOR, {"template": "{{x}}{ embedding }}}"}, errors.UsageError, "reads embedding"),
        (f"{VECTOR}; alter table notes add more extensions.halfvec(3)",
         {"template": "{body} {more}"}, errors.UsageError, "reads more, which is a vector"),
        (f"{VECTOR}; alter table notes add n int generated always as "
         "(extensions.vector_dims(embedding)) stored", {"template": "{body} {n}"},
         errors.UsageError, "reads n, which is a vector or is computed from one"),
        ("create type pair as (id bigint, body text); drop table notes; "
         "create table notes of pair (primary key (id))", {}, errors.UsageError, "not of"),
    ],
)  # fmt: skip
async def test_column_or_template_that_cannot_work_is_refused(
    store: Store, ddl: str, declaration: dict[str, Any], error: type[errors.BacklineError],
    message: str,
) -> None:  # fmt: skip
    await store.connector.execute(NOTES)
    await store.connector.execute(ddl or "select 1")
    await refused(store, error, message, **declaration)


@pytest.mark.parametrize("template", ["{{embedding}} {body}", "embedding {body}", "{body} {n}"])
async def test_template_that_only_looks_like_a_vector_is_accepted(
    store: Store, template: str
) -> None:
    await store.connector.execute(NOTES)
    await store.connector.execute(f"{VECTOR}, add n int generated always as (views * 2) stored")
    await add(store, template=template)


@pytest.mark.parametrize("name", ["", "-x", "a\nb", "a\x1b[31m", "x" * 201])
async def test_name_that_no_command_can_take_is_refused(store: Store, name: str) -> None:
    await store.connector.execute(NOTES)
    await refused(store, errors.UsageError, "cannot be named", name=name)


async def test_taken_name_is_refused(store: Store) -> None:
    async with make_world(store):
        await refused(
            store, errors.CollectionExistsError, "drop notes; or choose another --name",
            name="notes", column="other",
        )  # fmt: skip


@pytest.mark.parametrize("table", ["notes", "public.notes", '"notes"', "NOTES", '"public".notes'])
async def test_taken_column_is_refused_in_every_spelling_of_the_table(
    store: Store, table: str
) -> None:
    async with make_world(store):
        message = "holds the vectors of the collection 'notes'.*backline drop notes"
        await refused(store, errors.CollectionExistsError, message, table=table)
        await add(store, table, column="other")


async def test_column_that_a_partition_filled_before_is_refused(store: Store) -> None:
    await store.connector.execute(NOTES)
    await add(store, name="leaf")
    await store.connector.execute(
        f"create table parent (id bigint primary key, body text, views int not null default 0, "
        f"embedding extensions.vector({DIMENSIONS})) partition by range (id);"
        "alter table parent attach partition notes for values from (0) to (1000)"
    )
    await refused(store, errors.CollectionExistsError, "'leaf'", table="parent")


@pytest.mark.parametrize("name", ["My Notes", "it's", "my-table", 'say "hi"', "a.b", "Notes"])
async def test_table_is_found_by_its_name_as_it_stands(store: Store, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    await store.connector.execute(f"create schema crm; create table crm.{quoted} (id int)")
    for spelling in (f"crm.{name}", f"crm.{quoted}"):
        assert (await store.find_table(spelling))["name"] == name


async def test_exact_name_precedes_the_folded_one(store: Store) -> None:
    await store.connector.execute('create table "Notes" (id int); create table notes (id int)')
    assert (await store.find_table("Notes"))["name"] == "Notes"
    assert (await store.find_table("NOTES"))["name"] == "notes"


async def test_name_of_two_tables_is_refused(store: Store) -> None:
    await store.connector.execute(
        'create schema a; create schema "a.b"; create table a."b.c" (id int); '
        'create table "a.b".c (id int)'
    )
    with pytest.raises(errors.UsageError, match=r'one of: a\."b\.c", "a\.b"\.c'):
        await store.find_table("a.b.c")


# --- publications ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "publication"),
    [
        (NOTES, "for table notes"),
        (NOTES, "for table notes (id, body), tables in schema other"),
        (NOTES, "for all tables"),
        (NOTES, "for tables in schema public"),
        (NOTES, "for table notes with (publish = 'insert')"),
        (NOTES, "for table notes where (id > 5)"),
        (f"{NOTES}; {VECTOR}", "for table notes (id, embedding)"),
        (PARTITIONED, "for table notes"),
        (PARTITIONED, "for table january"),
        (PARTITIONED, "for table notes with (publish_via_partition_root)"),
    ],
)
async def test_published_table_is_refused_without_the_flag(
    store: Store, ddl: str, publication: str
) -> None:
    await store.connector.execute("create schema other")
    await store.connector.execute(ddl)
    if "other" in publication:  # Postgres refuses a column list beside a schema
        publication = "for table notes, tables in schema other"
    await store.connector.execute(f"create publication copies {publication}")
    message = r"published \(copies\).*add column embedding vector\(8\).*--published"
    await refused(store, errors.UsageError, message)
    await add(store, published=True)


@pytest.mark.parametrize(
    "publication",
    [
        "copies for table notes (id, body)",
        "copies for table other",
        "supabase_realtime for table notes",
        "copies",
    ],
)
async def test_publication_without_the_column_is_no_obstacle(
    store: Store, publication: str
) -> None:
    await store.connector.execute(NOTES)
    await store.connector.execute("create table other (id int primary key)")
    await store.connector.execute(f"create publication {publication}")
    await add(store)


@pytest.mark.parametrize(
    ("ddl", "cure"),
    [
        (UNIQUE, "alter table public.notes replica identity using index notes_id_key"),
        (f"{NOTES}; alter table notes replica identity nothing",
         "alter table public.notes replica identity default"),
        (f"{UNIQUE}; alter table notes replica identity using index notes_id_key; "
         "alter table notes drop constraint notes_id_key, add constraint k unique (id)",
         "alter table public.notes replica identity using index k"),
        (f"{PARTITIONED}; alter table january replica identity nothing",
         "alter table public.january replica identity default"),
        ("create table notes (id bigint not null unique deferrable, body text)",
         "alter table public.notes replica identity full"),
    ],
)  # fmt: skip
async def test_published_table_without_replica_identity_is_refused_until_cured(
    store: Store, ddl: str, cure: str
) -> None:
    """The statement in the message cures it, and the vectors are then stored."""
    await store.connector.execute(ddl)
    await store.connector.execute("create publication copies for table notes")
    await refused(store, errors.UsageError, f"{cure}$", key="id", published=True)
    async with make_world(store, ddl=cure, key="id", published=True) as world:
        await world.sql("insert into notes (id, body) values (1, 'one')")
        assert (await world.fill()).embedded == 1


@pytest.mark.parametrize(
    ("ddl", "publication"),
    [
        (UNIQUE, "for table notes with (publish = 'insert')"),
        (f"{UNIQUE}; alter table notes replica identity full", "for table notes"),
        (f"{UNIQUE}; alter table notes replica identity using index notes_id_key",
         "for table notes"),
        (f"{PARTITIONED}; create table february partition of notes for values from (1000) to (2000)"
         "; alter table february replica identity nothing", "for table january"),
    ],
)  # fmt: skip
async def test_usable_replica_identity_is_accepted(
    store: Store, ddl: str, publication: str
) -> None:
    await store.connector.execute(ddl)
    await store.connector.execute(f"create publication copies {publication}")
    await add(store, key="id", published=True)


async def test_run_names_the_cure_for_a_replica_identity_that_went_missing(store: Store) -> None:
    async with make_world(store) as world:
        await world.insert("one")
        await world.sql("alter table notes replica identity nothing")
        await world.sql("create publication copies for table notes")
        report = await world.fill()
        assert "replica identity full" in (report.stopped_by or "")
        await world.sql("alter table notes replica identity full")
        assert (await world.fill()).complete


async def test_schema_is_not_created_where_a_publication_would_send_it(
    empty_database: str,
) -> None:
    async with open_store(empty_database) as store:
        await store.connector.execute("create publication copies for all tables")
        with pytest.raises(errors.UsageError, match="publication copies would send"):
            await migrate.apply(store.connector)
        rows = await store.connector.fetch("select to_regnamespace('backline') as schema")
        assert rows == [{"schema": None}]
        assert await migrate.apply(store.connector, published=True)


async def test_everything_works_in_a_database_whose_tables_are_all_published(
    empty_database: str,
) -> None:
    async with open_store(empty_database) as store:
        await migrate.apply(store.connector)
        await store.connector.execute("create publication copies for all tables")
        async with make_world(store, published=True) as world:
            await world.insert("one", "two", "three")
            await world.fill()
            await world.sql("update notes set body = 'edited' where id = 1")
            await world.sql("delete from notes where id = 2")
            assert (await world.fill()).complete
            await store.compact(world.collection)
            await ensure_index(store, world.collection)
            await world.sql("update notes set body = 'edited again' where id = 1")
            assert (await world.fill()).complete
            await world.check_complete()


# --- the advice base ------------------------------------------------------------------------------


async def test_migrations_create_the_advice_base_only_on_request(empty_database: str) -> None:
    async with open_store(empty_database) as store:
        await migrate.apply(store.connector)
        assert await store.collections() == []
        tables = "select to_regclass('public.music_knowledge') as name"
        assert (await store.connector.fetch_one(tables))["name"] is None
        assert await migrate.pending(store.connector) == []
        assert await migrate.apply(store.connector, music=True)
        assert [c.name for c in await store.collections()] == ["music_knowledge"]


async def test_later_migrations_of_an_existing_advice_base_are_pending(
    empty_database: str,
) -> None:
    connector = Connector(empty_database)
    await connector.open()
    await migrate.apply(connector, music=True)
    await connector.execute(
        "delete from supabase_migrations.schema_migrations where name = 'music_search_functions'"
    )
    assert [m.name for m in await migrate.pending(connector)] == ["music_search_functions"]
    await connector.aclose()


async def test_collection_is_never_guessed(store: Store) -> None:
    with pytest.raises(errors.CollectionNotFoundError, match="No collection is declared yet"):
        await store.collection()
    async with make_world(store) as world:
        assert (await store.collection()).name == "notes"
        await add(store, name="music_knowledge", column="other")
        await execute(world.user, "create table more (id int primary key, body text)")
        await add(store, "more", name="public.notes")
        with pytest.raises(
            errors.CollectionNotFoundError,
            match=r"music_knowledge, notes, public\.notes\..*--collection",
        ):
            await store.collection()
        assert (await store.collection("public.notes")).table == "public.more"
        assert (await store.collection("public.more")).name == "public.notes"
        await store.drop_collection(await store.collection("public.notes"), drop_column=False)
        with pytest.raises(errors.CollectionNotFoundError, match=r"music_knowledge, notes\."):
            await store.collection("public.notes")


@pytest.mark.parametrize(
    "word", ["notes", "My Notes", "it's", "", "$(x)", "a;b", "a\nb", "ünï", "a/b.c-d=e", "`x`"]
)
def test_sql_quotes_a_word_for_a_shell(database: str, word: str) -> None:
    with psycopg.connect(database) as connection:
        rows = connection.execute("select backline.shell_word(%s)", [word]).fetchall()
    read = subprocess.run(["sh", "-c", f"printf %s {rows[0][0]}"], capture_output=True, check=True)
    assert read.stdout.decode() == word
