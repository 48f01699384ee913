"""Damaged, incomplete and restored schemas are named, and `migrate` repairs them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from psycopg import sql
from tests.conftest import Postgres
from tests.integration.harness import World, execute, make_world, texts

from backline import errors
from backline.postgres import migrate
from backline.postgres.schema import require_sound, schema_problems
from backline.postgres.store import Store, open_store
from backline.reconcile import Reconciliation
from backline.sql.objects import objects

DAMAGE = {
    "function": "drop function backline.coverage",
    "function in public": "drop function public.backline_health",
    "body": "create or replace function backline.coverage(p_collection int) returns jsonb "
    "language sql stable as 'select null::jsonb'",
    "signature": "drop function backline.coverage; create function backline.coverage(p_c int) "
    "returns int language sql as 'select 1'",
    "table": "drop table backline.jobs",
    "cache": "drop table backline.vectors",
    "counters": "drop table backline.counter_deltas",
    "index": "drop index backline.jobs_claimable",
    "invalid index": "update pg_index set indisvalid = false "
    "where indexrelid = 'backline.jobs_leased'::regclass",
    "sequence": "drop sequence backline.document_ids cascade",
    "trigger": "drop trigger count_inserted on backline.jobs",
    "disabled trigger": "alter table backline.stamps disable trigger user",
    "column of an empty table": "alter table backline.batch_leases drop column leased_at",
    "primary key": "alter table backline.stamps drop constraint stamps_pkey",
    "row level security": "alter table backline.stamps disable row level security",
    "policy": 'drop policy "service role" on backline.jobs',
    "grant on a table": "revoke all on backline.jobs from service_role",
    "grant on a function": "revoke all on function backline.claim from service_role",
    "grant to public": "grant execute on function public.backline_claim to public",
    "grant to anon": "grant execute on function public.backline_claim to anon",
    "several": "drop function backline.coverage; drop table backline.failures; "
    "alter table backline.stamps disable row level security",
}


@pytest.fixture
async def world(store: Store) -> AsyncIterator[World]:
    async with make_world(store) as made:
        await made.insert(*texts(5))
        await made.fill()
        yield made


async def test_a_migrated_database_has_what_the_migrations_name(store: Store) -> None:
    """The reader of the migrations finds every object, and no other."""
    assert await schema_problems(store.connector) == []
    expected = objects("extensions")
    tables = await store.connector.fetch(
        "select relname from pg_class where relnamespace = 'backline'::regnamespace "
        "and relkind in ('r', 'p')"
    )
    assert {row["relname"] for row in tables} == expected.tables
    functions = await store.connector.fetch(
        "select n.nspname || '.' || proname as name from pg_proc p "
        "join pg_namespace n on n.oid = pronamespace where nspname = 'backline' "
        r"and proname !~ '^[ck]\d' and proname not in ('touch_updated_at', 'music_collection') "
        r"or nspname = 'public' and proname like 'backline\_%'"
    )
    assert {row["name"] for row in functions} == expected.bodies.keys()
    columns = await store.connector.fetch(
        "select table_name, column_name from information_schema.columns "
        "where table_schema = 'backline'"
    )
    assert {(c["table_name"], c["column_name"]) for c in columns} == expected.columns.keys()
    indexes = await store.connector.fetch(
        "select indexrelid::regclass::text as name from pg_index i join pg_class k "
        "on k.oid = indrelid where relnamespace = 'backline'::regnamespace and not exists "
        "(select from pg_constraint where conindid = indexrelid)"
    )
    assert {i["name"] for i in indexes} == {f"backline.{name}" for name in expected.indexes}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_migrate_repairs_what_was_damaged(world: World, damage: str) -> None:
    await execute(world.user, damage)
    assert await schema_problems(world.store.connector)
    repaired, left = await migrate.repair(world.store.connector)
    assert repaired
    assert left == []
    assert await schema_problems(world.store.connector) == []
    await world.insert("text 6", first=6)
    await Reconciliation(world.store, world.collection).run()
    assert (await world.fill()).coverage.embedded == 6
    await world.check_complete()


async def test_a_lost_column_of_a_filled_table_is_reported_with_a_remedy(world: World) -> None:
    await execute(world.user, "alter table backline.stamps drop column content_hash")
    _, left = await migrate.repair(world.store.connector)
    [problem] = left
    assert problem.problem == "The column content_hash of backline.stamps is missing."
    assert "drop schema backline cascade" in problem.remedy
    await execute(world.user, "drop schema backline cascade")
    assert await migrate.apply(world.store.connector)
    assert await schema_problems(world.store.connector) == []


async def test_ids_of_a_lost_table_are_not_given_again(world: World) -> None:
    """A new collection must not take the stamps of a lost one."""
    before = world.collection.id
    await execute(world.user, "drop table backline.collections cascade")
    _, left = await migrate.repair(world.store.connector)
    assert left == []
    row = await world.store.find_table("notes")
    again = await world.store.add_collection(
        "again", row["oid"], key=None, template="{body}", column="embedding",
        model=world.collection.model, existing="overwrite",
    )  # fmt: skip
    assert again > before
    triggers = await execute(
        world.user, "select tgname from pg_trigger where tgrelid = 'notes'::regclass"
    )
    assert not [t for t in triggers if f"{before}_" in t["tgname"]]


async def test_a_damaged_schema_is_named_before_any_work(world: World) -> None:
    await execute(world.user, "drop function backline.claim; drop table backline.failures")
    with pytest.raises(
        errors.SchemaDamagedError, match=r"backline\.failures is missing.*claim"
    ) as e:
        await require_sound(world.store.connector)
    assert str(e.value).endswith("Run: backline migrate.")


async def test_damage_during_work_is_named(world: World) -> None:
    await execute(world.user, "drop function backline.coverage")
    with pytest.raises(errors.SchemaDamagedError, match="Run: backline migrate"):
        await world.store.coverage(world.collection)


async def test_an_undefined_column_of_the_user_is_no_damage(world: World) -> None:
    with pytest.raises(errors.ColumnNotFoundError):
        await world.store.connector.fetch("select nothing from notes")


async def test_missing_indexes_and_grants_do_not_stop_work(world: World) -> None:
    await execute(world.user, "drop index backline.jobs_claimable")
    await execute(world.user, "revoke all on backline.jobs from service_role")
    assert {each.kind for each in await schema_problems(world.store.connector)} == {
        "index", "privileges",
    }  # fmt: skip
    await require_sound(world.store.connector)


async def test_a_schema_of_a_newer_version_is_left_alone(world: World) -> None:
    await execute(
        world.user,
        "insert into supabase_migrations.schema_migrations (version, name) "
        "values ('29990101000000', 'backline_later_functions')",
    )
    await execute(world.user, DAMAGE["body"])
    assert await migrate.repair(world.store.connector) == ([], [])


async def test_another_role_is_told_whose_objects_they_are(
    world: World, postgres: Postgres
) -> None:
    await execute(world.user, "drop function backline.coverage")
    await execute(world.user, "drop role if exists guest; create role guest login")
    url = world.store.connector.conninfo.replace("postgres:@", "guest:@")
    async with open_store(url) as store:
        with pytest.raises(errors.PermissionDeniedError) as error:
            await migrate.repair(store.connector)
    assert "belong to postgres" in str(error.value)
    assert "grant postgres to guest" in str(error.value)
    postgres.execute(sql.SQL("drop role guest"))
