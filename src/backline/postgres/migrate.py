"""Apply the numbered migrations, and record them in the Supabase CLI's history table."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from psycopg import sql

from backline import errors
from backline.postgres.blockers import naming_blockers
from backline.postgres.connector import Connector, Transaction
from backline.sql import Migration, migrations, query

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

# Names of all migrations but those of the advice base, the table music_knowledge.
_CORE = re.compile(r"^backline")


async def pending(connector: Connector, *, music: bool = False) -> list[Migration]:
    """Return the migrations that this database lacks, in order.

    Those of the advice base count with `music`, or if the database has some of them already.
    """
    history = await connector.fetch_one(
        "select to_regclass('supabase_migrations.schema_migrations') is not null as exists"
    )
    applied: set[str] = set()
    if history["exists"]:
        rows = await connector.fetch("select version from supabase_migrations.schema_migrations")
        applied = {row["version"] for row in rows}
    music = music or any(m.version in applied and not _CORE.match(m.name) for m in migrations())
    return [
        migration
        for migration in migrations()
        if migration.version not in applied and (music or _CORE.match(migration.name))
    ]


async def apply(
    connector: Connector, *, music: bool = False, published: bool = False
) -> list[Migration]:
    """Apply the pending migrations, each in its own transaction; return those applied.

    Args:
        connector: the database.
        music: whether to create the advice base too, the table and collection `music_knowledge`.
        published: whether subscribers are prepared, if a publication would send the new tables.

    Raises:
        UsageError: a publication would send them, and `published` is false.
        ContentionError: another session held a lock for too long. The message names it.
        ExtensionMissingError: the server has no pgvector, or the role may not enable it.
        PermissionDeniedError: the role may not create schemas.

    """
    applied: list[Migration] = []
    missing = await pending(connector, music=music)
    if missing and not published:
        await _refuse_publications(connector, missing)
    if missing:
        await _prepare(connector)
    for migration in missing:
        async with _transaction(connector) as transaction:
            await transaction.execute(_LOCK)
            if await _is_applied(transaction, migration):  # by another process meanwhile
                continue
            schema = await _vector_schema(transaction)
            await transaction.execute(_for_schema(migration.sql, schema))
            await transaction.execute(
                "insert into supabase_migrations.schema_migrations (version, statements, name) "
                "values (%s, %s, %s)",
                [migration.version, [migration.sql], migration.name],
            )
        applied.append(migration)
    return applied


async def _refuse_publications(connector: Connector, missing: list[Migration]) -> None:
    """Raise if a publication would send the tables that these migrations create."""
    schemas = ["backline", "supabase_migrations"]
    if not all(_CORE.match(migration.name) for migration in missing):
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
    async with connector.transaction() as transaction:
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


def _for_schema(text: str, schema: str) -> str:
    """Return a migration with Supabase's schema `extensions` replaced by that of pgvector."""
    if schema == "extensions":
        return text
    quoted = sql.Identifier(schema).as_string(None)
    return re.sub(r"\bextensions\b(?=[.;])", lambda _: quoted, text)
