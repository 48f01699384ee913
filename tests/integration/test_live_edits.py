"""Edits of the table by any SQL statement are followed, and nothing else is enqueued."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.integration.harness import (
    World,
    connect,
    eventually,
    execute,
    make_world,
    overpaid,
    texts,
)
from tests.provider import StandInProvider

from backline.postgres.store import Store, open_store
from backline.types import Job


async def fill(world: World, *bodies: str | None) -> None:
    """Insert and embed rows."""
    await world.insert(*bodies)
    await world.fill()
    await world.check_complete()


# --- what an edit enqueues ------------------------------------------------------------------------


async def test_insert_enqueues_its_rows(world: World) -> None:
    await world.sql("insert into notes (id, body) values (1, 'one'), (2, 'two')")
    assert await world.jobs() == {"1": None, "2": None}
    await world.check_consistent()
    await world.fill()
    await world.check_complete()


async def test_update_of_the_text_enqueues_only_changed_rows(world: World) -> None:
    await fill(world, "one", "two", "three")
    await world.sql("update notes set body = case id when 2 then 'TWO' else body end")
    assert list(await world.jobs()) == ["2"]
    await world.check_consistent()
    await world.fill()
    await world.check_complete()


@pytest.mark.parametrize(
    "statement",
    [
        "update notes set views = views + 1",
        "update notes set body = body",
        "update notes set body = body || ' '",  # white space at the ends is trimmed
        "update notes set id = id",
        "delete from notes where false",
        "insert into notes (id, body) select 9, 'x' where false",
        "insert into notes (id, body) values (1, 'x') on conflict do nothing",
        "insert into notes (id, body) values (1, 'x') on conflict (id) do update set views = 5",
        "select * from notes for update",
    ],
)
async def test_statement_that_changes_no_text_enqueues_nothing(
    world: World, statement: str
) -> None:
    await fill(world, "one", "two")
    await world.sql(statement)
    assert await world.jobs() == {}
    await world.check_complete()


async def test_delete_removes_jobs_and_stamps(world: World) -> None:
    await fill(world, "one", "two", "three")
    await world.sql("update notes set body = 'changed' where id = 2")
    await world.sql("delete from notes where id > 1")
    assert await world.jobs() == {}
    await world.check_complete()
    rows = await world.sql("select key from backline.stamps")
    assert rows == [{"key": "1"}]


async def test_delete_removes_the_dead_letter(world: World, provider: StandInProvider) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "good")
    await world.fill()
    await world.sql("delete from notes where id = 1")
    await world.check_complete()


async def test_truncate_removes_all_records(world: World) -> None:
    await fill(world, "one", "two")
    await world.sql("insert into notes (id, body) values (3, 'three')")
    await world.sql("truncate notes")
    assert await world.jobs() == {}
    await world.check_complete()
    assert (await world.store.coverage(world.collection)).rows == 0
    await fill(world, "again")


async def test_copy_enqueues_its_rows(world: World) -> None:
    await world.insert(*texts(300))
    assert len(await world.jobs()) == 300
    await world.check_consistent()


async def test_changed_key_enqueues_the_new_key(world: World) -> None:
    await fill(world, "one", "two")
    await world.sql("update notes set id = 10 where id = 1")
    assert list(await world.jobs()) == ["10"]
    await world.check_consistent()
    await world.fill()
    await world.check_complete()


async def test_changed_key_reuses_the_vector(world: World, provider: StandInProvider) -> None:
    await fill(world, "one", "two")
    await world.sql("update notes set id = id + 100")
    await world.fill()
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_swapped_keys_enqueue_both_rows(world: World) -> None:
    await world.sql("alter table notes drop constraint notes_pkey")
    await world.sql("alter table notes add primary key (id) deferrable initially deferred")
    await fill(world, "one", "two")
    await world.sql("update notes set id = 3 - id")
    assert sorted(await world.jobs()) == ["1", "2"]
    await world.fill()
    await world.check_complete()


async def test_upsert_enqueues_inserted_and_updated_rows(world: World) -> None:
    await fill(world, "one", "two")
    await world.sql(
        "insert into notes (id, body) values (2, 'TWO'), (3, 'three') "
        "on conflict (id) do update set body = excluded.body"
    )
    assert sorted(await world.jobs()) == ["2", "3"]
    await world.check_consistent()
    await world.fill()
    await world.check_complete()


async def test_each_branch_of_merge_is_followed(world: World) -> None:
    await fill(world, "one", "two", "three")
    await world.sql(
        "merge into notes n using (values (1, 'ONE'), (2, 'gone'), (4, 'four')) v (id, body) "
        "on n.id = v.id "
        "when matched and v.body = 'gone' then delete "
        "when matched then update set body = v.body "
        "when not matched then insert (id, body) values (v.id, v.body)"
    )
    assert sorted(await world.jobs()) == ["1", "4"]
    await world.check_consistent()
    await world.fill()
    await world.check_complete()


async def test_statement_with_several_writing_ctes_is_followed(world: World) -> None:
    await fill(world, "one", "two")
    await world.sql(
        "with gone as (delete from notes where id = 1 returning *), "
        "changed as (update notes set body = 'TWO' where id = 2) "
        "insert into notes (id, body) select id + 10, body from gone"
    )
    await world.check_consistent()
    await world.fill()
    await world.check_complete()


async def test_row_deleted_and_inserted_again_in_a_transaction_is_followed(world: World) -> None:
    await fill(world, "one", "two")
    async with world.another_user() as user:
        await execute(user, "delete from notes where id = 1")
        await execute(user, "insert into notes (id, body) values (1, 'one, again')")
        await user.commit()
    await world.check_consistent()
    await world.fill()
    await world.check_complete()


async def test_coverage_counts_a_row_that_was_replaced_as_outdated(world: World) -> None:
    await world.insert("one", "two", "three")
    await world.fill()
    await world.sql("delete from notes where id = 1")
    await world.sql("insert into notes (id, body) values (1, 'another')")
    coverage = await world.store.coverage(world.collection)
    assert (coverage.rows, coverage.embedded, coverage.pending) == (3, 2, 1)
    assert not coverage.complete
    await world.fill()
    await world.check_complete()


async def test_rolled_back_edits_enqueue_nothing(world: World) -> None:
    await fill(world, "one", "two")
    async with world.another_user() as user:
        await execute(user, "update notes set body = 'rolled back'")
        await execute(user, "insert into notes (id, body) values (9, 'rolled back')")
        await execute(user, "delete from notes where id = 1")
    assert await world.jobs() == {}
    await world.check_complete()


async def test_cascading_foreign_key_is_followed(world: World) -> None:
    await world.sql("create table authors (id int primary key)")
    await world.sql(
        "alter table notes add column author int references authors on delete cascade "
        "on update cascade"
    )
    await world.sql("insert into authors values (1), (2)")
    await world.sql("insert into notes (id, body, author) values (1, 'a', 1), (2, 'b', 2)")
    await world.fill()
    await world.sql("delete from authors where id = 1")
    await world.check_complete()
    await world.sql("update authors set id = 3")
    await world.check_complete()


async def test_partitioned_table_is_followed(store: Store, provider: StandInProvider) -> None:
    ddl = """
    create table notes (id bigint primary key, body text) partition by range (id);
    create table notes_low partition of notes for values from (0) to (100);
    create table notes_high partition of notes for values from (100) to (1000);
    """
    async with make_world(store, provider, ddl=ddl) as world:
        await world.sql("insert into notes (id, body) values (1, 'one'), (200, 'two')")
        await world.fill()
        await world.check_complete()
        await world.sql("update notes set id = 300 where id = 1")
        await world.sql("delete from notes where id = 200")
        await world.check_consistent()
        await world.fill()
        await world.check_complete()
        await world.sql("truncate notes")
        await world.check_complete()


@pytest.mark.parametrize("later", [False, True])
async def test_rows_that_become_blank_lose_their_vectors(world: World, later: bool) -> None:
    await world.insert("", None, " \n\t", "text")
    if later:
        await world.fill()
    for body in ("now a text", "", "another", None):
        await world.sql("update notes set body = %s where id = 1", body)
        await world.check_consistent()
        await world.fill()
        await world.check_complete()
    coverage = await world.store.coverage(world.collection)
    assert (coverage.rows, coverage.blank, coverage.embedded) == (4, 3, 1)


async def test_user_without_rights_on_the_schema_can_edit(world: World, database: str) -> None:
    role = f"writer_{world.collection.id}_{time.monotonic_ns()}"
    await world.sql(f"create role {role} login")
    try:
        await world.sql(f"grant select, insert, update, delete, truncate on notes to {role}")
        async with await connect(database.replace("postgres:@", f"{role}:@")) as user:
            assert await execute(user, "select current_user as name") == [{"name": role}]
            await execute(user, "insert into notes (id, body) values (1, 'one'), (2, 'two')")
            await execute(user, "update notes set body = 'ONE' where id = 1")
            await execute(user, "delete from notes where id = 2")
            await world.check_consistent()
            assert list(await world.jobs()) == ["1"]
            await execute(user, "truncate notes")
            await world.check_complete()
    finally:
        await world.sql(f"drop owned by {role}")
        await world.sql(f"drop role {role}")


async def test_session_settings_of_a_user_do_not_change_the_text(
    store: Store, provider: StandInProvider
) -> None:
    """Otherwise a trigger would miss edits, or see edits that did not happen."""
    ddl = """
    create table notes (id bigint primary key, at timestamptz, took interval, raw bytea,
                        ratio float8, day date);
    insert into notes values
      (1, '2026-01-02 03:04:05+00', '1 day 02:03:04', '\\xdeadbeef', 0.1, '2026-02-03')
    """
    template = "{at} {took} {raw} {ratio} {day}"
    async with make_world(store, provider, ddl=ddl, template=template) as world:
        await world.fill()
        [call] = provider.calls
        assert call.texts == ("2026-01-02 03:04:05+00 1 day 02:03:04 \\xdeadbeef 0.1 2026-02-03",)
        await world.sql(
            "set timezone = 'Asia/Tokyo'; set datestyle = 'German'; "
            "set intervalstyle = 'iso_8601'; "
            "set bytea_output = 'escape'; set extra_float_digits = -10"
        )
        await world.sql("update notes set id = id")
        assert await world.jobs() == {}
        await world.sql("update notes set ratio = 0.1 + 1e-16")  # visible only with all digits
        assert list(await world.jobs()) == ["1"]


async def test_session_settings_of_a_worker_do_not_change_the_text(
    store: Store, provider: StandInProvider, database: str
) -> None:
    ddl = """
    create table notes (id bigint primary key, at timestamptz, took interval, raw bytea,
                        ratio float8);
    insert into notes values
      (1, '2026-01-02 03:04:05+00', '1 day 02:03:04', '\\xdeadbeef', 0.1::float4)
    """
    async with make_world(store, provider, ddl=ddl, template="{at} {took} {raw} {ratio}") as world:
        await world.fill()
        for setting in (
            "timezone = 'Asia/Tokyo'",
            "datestyle = 'German'",
            "intervalstyle = 'iso_8601'",
            "bytea_output = 'escape'",
            "extra_float_digits = -10",
        ):
            await world.set_database_default(setting)
        async with open_store(database) as world.store:
            report = await world.fill()
            assert report.due == 0
            await world.sql("delete from backline.stamps")
            await world.fill()
            assert len(provider.calls) == 1  # the vector of the same text is cached


# --- sync -----------------------------------------------------------------------------------------


async def test_sync_embeds_each_edit(world: World, provider: StandInProvider) -> None:
    async with world.syncing(poll=30):
        for n in range(5):
            await world.sql("insert into notes (id, body) values (%s, %s)", n, f"text {n}")
            await world.wait_until_idle(within=10)
        await world.sql("update notes set body = 'changed' where id = 3")
        await world.wait_until_idle(within=10)
        await world.sql("delete from notes where id = 4")
        await world.check_consistent()
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_text_stored_during_a_claim_is_not_embedded_again(
    world: World, provider: StandInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim reads the cache before the vector is stored, and returns afterwards."""
    claim, claimed = world.store.claim, asyncio.Event()

    async def slow_claim(*args: Any, **options: Any) -> list[Job]:
        jobs = await claim(*args, **options)
        if [(job.key, job.action) for job in jobs] == [("2", "embed")]:
            claimed.set()
            await eventually(lambda: sync.processed == 1, "the first row to be stored")
        return jobs

    monkeypatch.setattr(world.store, "claim", slow_claim)
    async with world.syncing(poll=0.05) as sync:
        with provider.held():
            await world.sql("insert into notes (id, body) values (1, 'same')")
            await asyncio.to_thread(provider.wait_in_flight)
            await world.sql("insert into notes (id, body) values (2, 'same')")
            await asyncio.wait_for(claimed.wait(), 30)
        await eventually(lambda: sync.processed == 2, "the second row to be stored")
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_notify_wakes_sync(world: World) -> None:
    """The poll interval is an hour, so only a notification can wake the worker."""
    async with world.syncing(poll=3600) as sync:
        await world.sql("insert into notes (id, body) values (1, 'one')")
        await eventually(lambda: sync.processed == 1, "the first edit")
        await asyncio.sleep(0.2)  # until it waits again
        await world.sql("insert into notes (id, body) values (2, 'two')")
        await eventually(lambda: sync.processed == 2, "the second edit")


async def test_sync_listens_again_after_losing_its_connection(world: World) -> None:
    async with world.syncing(poll=3600) as sync:
        await world.sql("insert into notes (id, body) values (1, 'one')")
        await eventually(lambda: sync.processed == 1, "the first edit")
        await world.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'backline' and datname = current_database()"
        )
        await world.sql("insert into notes (id, body) values (2, 'two')")
        await eventually(lambda: sync.processed == 2, "the second edit")
    await world.check_complete()


async def test_sync_polls_without_session_state(world: World) -> None:
    world.store.connector.has_sessions = False
    async with world.syncing(poll=3600) as sync:
        await world.sql("insert into notes (id, body) values (1, 'one')")
        await eventually(lambda: sync.processed == 1, "the edit")
        listening = await world.sql(
            "select 1 from pg_stat_activity where query ilike 'listen%%' "
            "and datname = current_database()"
        )
        assert listening == []
    await world.check_complete()


async def test_sync_embeds_a_bulk_edit(world: World, provider: StandInProvider) -> None:
    await fill(world, *texts(200))
    async with world.syncing():
        await world.sql("update notes set body = body || ', edited'")
        await world.wait_until_idle()
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_collections_on_one_table_follow_their_own_text(
    world: World, provider: StandInProvider
) -> None:
    """Vectors written for one collection are not edits to the other."""
    other = await world.store.add_collection(
        "titles", (await world.store.find_table("notes"))["oid"], key=None, template="{views}",
        column="embedding_views", model=world.embedder.model,
    )  # fmt: skip
    titles = await world.store.collection("titles")
    assert titles.id == other
    await world.insert("one", "two")
    await world.fill()
    first, world.collection = world.collection, titles
    await world.fill()
    assert await world.jobs() == {}
    await world.sql("update notes set views = views + 1")
    assert sorted(await world.jobs()) == ["1", "2"]
    world.collection = first
    assert await world.jobs() == {}
    await world.check_consistent()
