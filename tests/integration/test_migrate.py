"""Concurrent migrations take turns, and one that cannot begin names what it waits for."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.integration.harness import connect, execute

from backline import errors
from backline.postgres import migrate
from backline.postgres.store import open_store
from backline.sql import migrations

CORE = [migration for migration in migrations() if migration.is_core]


async def test_concurrent_migrations_apply_each_migration_once(empty_database: str) -> None:
    async with open_store(empty_database) as first, open_store(empty_database) as second:
        applied = await asyncio.gather(
            *(migrate.apply(store.connector) for store in (first, second, first))
        )
        versions = [migration.version for each in applied for migration in each]
        assert sorted(versions) == [migration.version for migration in CORE]
        assert await migrate.pending(first.connector) == []


async def test_migration_names_the_session_that_it_waits_for(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_LOCK", migrate._LOCK.replace("10s", "1500ms"))
    async with open_store(database) as store, await connect(database) as holder:
        await execute(
            holder,
            "delete from supabase_migrations.schema_migrations where version = %s",
            CORE[-1].version,
        )
        await holder.set_autocommit(False)
        await execute(holder, "lock table supabase_migrations.schema_migrations in exclusive mode")
        name = f"held by process {holder.info.backend_pid} .role postgres, a user, idle in trans"
        with pytest.raises(errors.ContentionError, match=name):
            await migrate.apply(store.connector)


async def test_advisory_lock_does_not_delay_a_migration(empty_database: str) -> None:
    """Any role may take it."""
    with psycopg.connect(empty_database, autocommit=True) as stranger:
        stranger.execute("select pg_advisory_lock(%s)", [int.from_bytes(b"back")])
        async with open_store(empty_database) as store, asyncio.timeout(30):
            assert len(await migrate.apply(store.connector)) == len(CORE)
