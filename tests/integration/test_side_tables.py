"""A side table follows the key, the rights and the row level security of its source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.resources import files
from typing import Any

import psycopg
import pytest
from tests.integration.harness import DIMENSIONS, NOTES, World, declare, make_world, texts

from backline import errors
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.postgres.store import Store
from backline.reconcile import Reconciliation

ROWS = 5
INTEGERS = NOTES.replace("bigint", "integer")


@pytest.fixture
async def reader(filled: World) -> AsyncIterator[str]:
    """A role that may read the source because every role may."""
    await filled.sql("drop role if exists side_reader; create role side_reader")
    yield "side_reader"
    await filled.sql("reset role; drop owned by side_reader; drop role side_reader")


@pytest.fixture
async def filled(store: Store) -> AsyncIterator[World]:
    """Five rows with vectors in a side table; every role may read the source."""
    async with make_world(
        store, ddl=f"{INTEGERS}; grant select on notes to public", into="note_vectors"
    ) as world:
        await world.insert(*texts(ROWS))
        await world.fill()
        yield world


async def seen(world: World, role: str) -> tuple[int, int]:
    """Return how many rows and how many vectors a role sees."""
    await world.sql(f"set role {role}")
    [row] = await world.sql(
        "select (select count(*) from notes) as notes,"
        " (select count(*) from backline_vectors.note_vectors) as vectors"
    )
    await world.sql("reset role")
    return row["notes"], row["vectors"]


async def test_a_grant_to_public_covers_the_side_table(filled: World, reader: str) -> None:
    assert await seen(filled, reader) == (ROWS, ROWS)


async def test_row_level_security_follows_a_replaced_table(filled: World, reader: str) -> None:
    await filled.sql(
        "create table copied (like notes including all); insert into copied select * from notes;"
        "drop table notes; alter table copied rename to notes; grant select on notes to public;"
        "alter table notes enable row level security;"
        "create policy few on notes for select using (id <= 2)"
    )
    assert await seen(filled, reader) == (2, 2)
    assert (await Reconciliation(filled.store, filled.collection).run()).sound
    assert await seen(filled, reader) == (2, 2)


async def test_an_operator_of_the_reader_does_not_decide(filled: World, reader: str) -> None:
    await filled.sql(
        "alter table notes enable row level security;"
        "create policy few on notes for select using (id operator(pg_catalog.<=) 2);"
        "create schema theirs; grant usage on schema theirs to public;"
        "create function theirs.yes(integer, integer) returns boolean language sql "
        "as 'select true'; create operator theirs.= (leftarg = integer, rightarg = integer,"
        " function = theirs.yes);"
        "set search_path = theirs, pg_catalog, public"
    )
    assert await seen(filled, reader) == (2, 2)


async def test_an_upgrade_keeps_the_side_table_readable(filled: World, reader: str) -> None:
    privileges = files("backline.sql") / "schema" / "functions" / "privileges.sql"
    await filled.user.execute(privileges.read_bytes())
    await filled.sql("alter table notes enable row level security")
    assert await seen(filled, reader) == (0, 0)


@pytest.mark.parametrize(
    ("type_", "added"), [("bigint", "3000000000"), ("text", "'third'"), ("varchar(9)", "'third'")]
)
async def test_a_key_of_another_type_is_followed(filled: World, type_: str, added: str) -> None:
    await filled.sql(f"alter table notes alter id type {type_}")
    await filled.sql(f"insert into notes (id, body) values ({added}, 'new')")
    report = await filled.fill()
    assert report.embedded == 1, report
    assert (await Reconciliation(filled.store, filled.collection).run()).sound
    await filled.check_complete()


async def test_vectors_of_keys_without_a_value_of_the_new_type_are_replaced(filled: World) -> None:
    await filled.sql("alter table notes alter id type text")
    await filled.sql("insert into notes (id, body) values ('third', 'new')")
    await filled.fill()
    await filled.sql("delete from notes where id = 'third'")  # its vector is still there
    await filled.sql("alter table notes alter id type bigint using id::bigint + 10")
    await filled.fill()
    assert (await Reconciliation(filled.store, filled.collection).run()).sound
    await filled.fill()
    await filled.check_complete()


async def test_a_key_that_becomes_longer_is_stored(store: Store) -> None:
    ddl = "create table notes (id varchar(3) primary key, body text)"
    async with make_world(store, ddl=ddl, into="note_vectors") as world:
        await world.sql("alter table notes alter id type varchar(9)")
        await world.sql("insert into notes values ('a longer', 'text')")
        await world.fill()
        await world.check_complete()


async def test_the_name_of_a_type_is_taken(store: Store) -> None:
    async with make_world(store) as world:
        await world.sql("create type taken as enum ('a')")
        with pytest.raises(errors.CollectionExistsError, match=r"public\.taken exists already"):
            await declare(store, HashEmbedder(DIMENSIONS), name="other", into="public.taken")


async def test_a_column_of_the_source_stays_free(filled: World) -> None:
    second = await declare(filled.store, HashEmbedder(DIMENSIONS), name="second")
    assert (await filled.store.collection("second")).into is second.into is None


async def test_other_dimensions_need_another_side_table(filled: World) -> None:
    await filled.store.set_model(filled.collection, HashEmbedder(16).model)
    filled.embedder = HashEmbedder(16)
    filled.collection = await filled.store.collection("notes")
    with pytest.raises(
        errors.DimensionMismatchError, match=r'new side table.*"note_vectors_16"'
    ) as raised:
        await filled.fill()
    assert "--column" not in str(raised.value)


async def test_a_deletion_waits_for_the_write_of_a_released_job(filled: World) -> None:
    """An edit away and back released the job, and the row is deleted before the write commits."""
    keys = [filled.collection.id, "1 hour"]
    [row] = await filled.sql(
        "select backline.register_worker(%s::int, 'host', 1, false, %s::interval) as id", *keys
    )
    await filled.sql("insert into notes values (9, 'there')")
    await filled.apply_changes()
    [job] = await filled.sql(
        "select * from backline.claim(%s::int, %s::bigint, 10)", filled.collection.id, row["id"]
    )
    await filled.sql("update notes set body = 'away' where id = 9")
    await filled.sql("update notes set body = 'there' where id = 9")
    await filled.apply_changes()
    async with filled.another_user() as writer:
        vector = str(hash_vectors(["there"], DIMENSIONS)[0].tolist())
        await writer.execute(
            "select backline.complete(%s::int, %s::bigint, null, false, array['9'], array['embed'],"
            " array[%s::bytea], array[%s::extensions.vector], p_leases => array[%s::bigint])",
            [filled.collection.id, row["id"], job["content_hash"], vector, job["lease"]],
        )
        await filled.sql("delete from notes where id = 9")
        deletion = asyncio.create_task(filled.apply_changes())
        await asyncio.sleep(0.1)
        await writer.commit()
    with suppress(psycopg.errors.LockNotAvailable):
        await deletion
    await filled.sql("select backline.unregister_worker(%s::bigint)", row["id"])
    await filled.check_complete()


COLUMN_GRANTS = {
    "the key and the text": ("grant select (id, body) on notes to {role}", True),
    "the key to every role, the text to one": (
        "grant select (id) on notes to public; grant select (body) on notes to {role}", True,
    ),
    "the key alone": ("grant select (id) on notes to {role}", False),
    "a column that the text leaves out": ("grant select (id, other) on notes to {role}", False),
}  # fmt: skip


@pytest.mark.parametrize(("grant", "readable"), COLUMN_GRANTS.values(), ids=COLUMN_GRANTS)
async def test_grants_on_columns_are_copied(store: Store, grant: str, readable: bool) -> None:
    ddl = f"create role column_reader; {INTEGERS}; alter table notes add other text;"
    async with make_world(
        store, ddl=ddl + grant.format(role="column_reader"), into="note_vectors"
    ) as world:
        try:
            await world.insert("one", "two")
            await world.fill()
            await world.sql("set role column_reader")
            count = "select count(*) as count from backline_vectors.note_vectors"
            if readable:
                assert (await world.sql(count))[0]["count"] == 2
            else:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await world.sql(count)
        finally:
            await world.sql("reset role; drop owned by column_reader; drop role column_reader")


@pytest.mark.parametrize("into", ["note_vectors", None])
async def test_lost_vectors_are_made_again_in_their_type(store: Store, into: str | None) -> None:
    options: dict[str, Any] = {"into": into} if into else {"column": "embedding"}
    async with make_world(store, column_type="halfvec", **options) as world:
        await world.insert("one", "two")
        await world.fill()
        await world.sql(
            "drop table backline_vectors.note_vectors" if into
            else "alter table notes drop column embedding"
        )  # fmt: skip
        await Reconciliation(store, world.collection).run()
        assert (await store.collection("notes")).column_type == "halfvec"
        await world.fill()
        await world.check_complete()
