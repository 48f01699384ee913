"""Apply the numbered migrations, and record them in the Supabase CLI's history table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

from backline import errors
from backline.postgres.blockers import naming_blockers
from backline.postgres.connector import Connector, Transaction
from backline.postgres.schema import history, quoted, schema_problems
from backline.sql import Migration, migrations, query
from backline.sql.objects import definitions, objects, repeatable
from backline.types import Problem

# Serializes concurrent migrations. Unlike an advisory lock, it takes a privilege.
_LOCK = """
set local lock_timeout = '10s';
lock table supabase_migrations.schema_migrations in exclusive mode;
set local lock_timeout = '5s';
"""
# Two processes that create the same object at the same time: one of them fails.
_ATTEMPTS: Final = 5
_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text primary key, statements text[], name text
);
"""
_VECTOR = """
create schema if not exists extensions;
create extension if not exists vector with schema extensions;
"""
# A function with another signature cannot be replaced. One that is in use is kept and replaced.
_DROP = """
do $$ begin drop function {}; exception when dependent_objects_still_exist then null; end $$
"""

# The values of a missing column are lost, so it is added to an empty table only.
_ADD_COLUMN = """
do $$ begin
  if not exists (select from backline.{0}) then alter table backline.{0} add column {1}; end if;
end $$
"""
_ADD_KEY = """
do $$ begin alter table backline.{0} add {1}; exception when unique_violation then null; end $$
"""
_BACKUP = (
    "Its values are lost. Restore schema backline from a backup, or declare the tables again: "
    "drop schema backline cascade, then backline migrate and backline add"
)
_SUPERUSER = "Run backline migrate as the owner of schema backline, or as a superuser"


async def pending(connector: Connector, *, music: bool = False) -> list[Migration]:
    """Return the migrations that this database lacks, in order.

    Those of the advice base count with `music`, or if the database has some of them already.
    """
    applied = await history(connector)
    music = music or any(m.version in applied and not m.is_core for m in migrations())
    return [
        migration
        for migration in migrations()
        if migration.version not in applied and (music or migration.is_core)
    ]


async def apply(
    connector: Connector, *, music: bool = False, published: bool = False
) -> list[Migration]:
    """Apply the pending migrations, each in its own transaction; return those applied.

    Tables that exist are kept, and functions are replaced, as after the restore of a partial dump.

    Args:
        connector: the database.
        music: whether to create the advice base too, the table and collection `music_knowledge`.
        published: whether subscribers are prepared, if a publication would send the new tables.

    Raises:
        UsageError: a publication would send them, and `published` is false.
        ContentionError: another session held a lock for too long. The message names it.
        ExtensionMissingError: the server has no pgvector, or the role may not enable it.
        PermissionDeniedError: the role may not create schemas, or owns not what is there.

    """
    missing = await pending(connector, music=music)
    if not missing:
        return []
    if not published:
        await _refuse_publications(connector, missing)
    restored = await _is_restored(connector)
    await _prepare(connector)
    try:
        return [m for m in missing if await _apply_one(connector, m, restored=restored)]
    except errors.PermissionDeniedError as error:
        raise await _not_owner(connector, error) from error


async def repair(connector: Connector) -> tuple[list[Problem], list[Problem]]:
    """Restore damaged objects of the schema, without loss; return those repaired, and the rest.

    A missing table is created empty, and a missing column is added if its table is empty.

    Raises:
        PermissionDeniedError: the role owns not what is there.

    """
    before = await schema_problems(connector)
    if not before:
        return [], []
    try:
        await _restore(connector, before)
    except errors.PermissionDeniedError as error:
        raise await _not_owner(connector, error) from error
    after = await schema_problems(connector)
    repaired = [each for each in before if each not in after]
    if {"table", "trigger"} & {each.kind for each in repaired}:
        await _recount(connector)
    return repaired, [_lasting(each) for each in after]


async def _is_restored(connector: Connector) -> bool:
    """Return whether the schema exists without its history, as after a partial restore."""
    state = await connector.fetch_one("select to_regnamespace('backline') is not null as exists")
    return bool(state["exists"]) and not await history(connector)


async def _apply_one(connector: Connector, migration: Migration, *, restored: bool) -> bool:
    """Apply a migration, unless another process has applied it meanwhile.

    In a restored schema it only creates objects: collections exist, and their tables may not.
    """
    async with _transaction(connector) as transaction:
        await transaction.execute(_LOCK)
        if await _is_applied(transaction, migration):
            return False
        schema = quoted(await _vector_schema(transaction))
        text = migration.for_schema(schema)
        if restored:
            await transaction.execute("set local check_function_bodies = off")
        await transaction.execute(definitions(text) if restored else repeatable(text))
        await transaction.execute(
            "insert into supabase_migrations.schema_migrations (version, statements, name) "
            "values (%s, %s, %s)",
            [migration.version, [migration.sql], migration.name],
        )
    return True


async def _restore(connector: Connector, problems: list[Problem]) -> None:
    """Apply every core migration again, after the columns and keys of tables that exist."""
    async with _transaction(connector) as transaction:
        await transaction.execute(_LOCK)
        # Functions in SQL are checked against tables, which may still lack a column.
        await transaction.execute("set local check_function_bodies = off")
        await _add_columns(transaction)
        await _drop_replaced(transaction)
        await transaction.execute(query("drop_unusable"))
        schema = quoted(await _vector_schema(transaction))
        for migration in migrations():
            if migration.is_core:
                await transaction.execute(definitions(migration.for_schema(schema)))
        await transaction.execute(query("drop_unusable"))  # of a table of collections made now
        if any(each.kind in ("table", "sequence") for each in problems):
            await transaction.execute(query("continue_ids"))


async def _add_columns(transaction: Transaction) -> None:
    """Add the missing columns of empty tables, and the missing keys of tables."""
    expected = objects(quoted(await _vector_schema(transaction)))
    rows = await transaction.fetch(query("schema_objects"))
    found = {(row["kind"], row["name"], row["detail"]) for row in rows}
    for (table, name), definition in expected.columns.items():
        if ("table", table, "") in found and ("column", table, name) not in found:
            await transaction.execute(_ADD_COLUMN.format(table, definition))
    for (table, columns), definition in expected.keys.items():
        if ("key", table, columns) not in found and all(
            ("column", table, name) in found for name in columns.split(",")
        ):
            await transaction.execute(_ADD_KEY.format(table, definition))


async def _drop_replaced(transaction: Transaction) -> None:
    """Drop the functions that have the name of one of Backline's and another body."""
    bodies = objects(quoted(await _vector_schema(transaction))).bodies
    rows = await transaction.fetch(query("replaced_functions"), {"functions": list(bodies)})
    for row in rows:
        if row["body"] not in bodies[row["name"]]:
            await transaction.execute(_DROP.format(row["signature"]))


async def _recount(connector: Connector) -> None:
    """Count the rows of each collection again: edits were not counted meanwhile."""
    with suppress(errors.DatabaseError):
        for row in await connector.fetch("select id from backline.collections"):
            await connector.execute(query("recount"), {"collection": row["id"], "correct": True})


async def _not_owner(connector: Connector, error: errors.DatabaseError) -> errors.DatabaseError:
    """Return an error that names the owners of Backline's objects."""
    functions = [name.removeprefix("public.") for name in objects("extensions").bodies]
    row = await connector.fetch_one(query("owners"), {"functions": functions})
    if not row["others"]:
        return error
    role, owners = row["role"], ", ".join(row["others"])
    return errors.PermissionDeniedError(
        f"Role {role} may not change Backline's objects, which belong to {owners}. Run backline "
        f"migrate as that role, or let a superuser run: grant {owners} to {role}."
    )


def _lasting(problem: Problem) -> Problem:
    """Return a problem with what helps after a repair did not."""
    return replace(problem, remedy=_BACKUP if problem.kind in ("column", "key") else _SUPERUSER)


async def _refuse_publications(connector: Connector, missing: list[Migration]) -> None:
    """Raise if a publication would send the tables that these migrations create."""
    schemas = ["backline", "supabase_migrations"]
    if not all(migration.is_core for migration in missing):
        schemas.append("public")
    rows = await connector.fetch(query("publications_of_schemas"), {"schemas": schemas})
    if rows:
        raise errors.UsageError(
            f"The publication {', '.join(row['name'] for row in rows)} would send the tables that "
            "Backline creates, and a subscriber without them stops at the first row. Publish the "
            "schemas or tables that subscribers need instead. If no subscriber can stop, run the "
            "command again with --published."
        )


async def _prepare(connector: Connector) -> None:
    """Create the history table, and enable pgvector."""
    await _create(connector, _HISTORY)
    async with _transaction(connector) as transaction:
        await transaction.execute(_LOCK)
        await _start_again(transaction)
        if await transaction.fetch(query("vector_schema")):
            return
        await _vector_schema(transaction)
    try:
        await _create(connector, _VECTOR)
    except errors.PermissionDeniedError as error:
        raise errors.ExtensionMissingError(
            "pgvector is not enabled in this database, and this role may not enable it. "
            "On Supabase, enable `vector` in the dashboard (Database, Extensions). Elsewhere, let "
            "a superuser run: create extension vector. Then run: backline migrate."
        ) from error


async def _start_again(transaction: Transaction) -> None:
    """Without the schema, forget its history and drop its functions in public."""
    state = await transaction.fetch("select to_regnamespace('backline') is null as absent")
    if state[0]["absent"]:
        versions = [each.version for each in migrations()]
        await transaction.execute(query("forget_migrations"), {"versions": versions})
        await _drop_replaced(transaction)


async def _create(connector: Connector, statements: str) -> None:
    """Create what does not exist. Another process may create it at the same time."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with _transaction(connector) as transaction:
                await transaction.execute(statements)
        except errors.RowRefusedError:  # a duplicate name in a catalog of Postgres
            if attempt == _ATTEMPTS:
                raise
        else:
            return


@asynccontextmanager
async def _transaction(connector: Connector) -> AsyncIterator[Transaction]:
    async with naming_blockers(connector) as waiting, connector.transaction() as transaction:
        waiting.backend = transaction.backend
        yield transaction


async def _is_applied(transaction: Transaction, migration: Migration) -> bool:
    rows = await transaction.fetch(
        "select 1 from supabase_migrations.schema_migrations where version = %s",
        [migration.version],
    )
    return bool(rows)


async def _vector_schema(transaction: Transaction) -> str:
    """Return the schema of pgvector, or the one in which it will be installed."""
    installed = await transaction.fetch(query("vector_schema"))
    if installed:
        return str(installed[0]["schema"])
    [server] = await transaction.fetch(query("vector_available"))
    if not server["available"]:
        raise errors.ExtensionMissingError
    return "extensions"
