"""Edits of the table, in every way that SQL has, are followed; and nothing else is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.harness import (
    World,
    connect,
    eventually,
    execute,
    overpaid,
    world,
)
from tests.provider import StandInProvider

from backline.postgres.connector import Connector
from backline.postgres.store import Store
from backline.types import Job


@pytest.fixture
async def w(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    async with world(store, provider) as made:
        yield made


async def filled(w: World, *texts: str | None) -> None:
    await w.insert(*texts)
    await w.fill()
    await w.check_complete()


# --- what an edit enqueues ------------------------------------------------------------------------


async def test_insert_enqueues_its_rows(w: World) -> None:
    await w.sql("insert into notes (id, body) values (1, 'one'), (2, 'two')")
    assert await w.jobs() == {"1": None, "2": None}
    await w.check_sound()
    await w.fill()
    await w.check_complete()


async def test_update_of_the_text_enqueues_only_what_changed(w: World) -> None:
    await filled(w, "one", "two", "three")
    await w.sql("update notes set body = case id when 2 then 'TWO' else body end")
    assert list(await w.jobs()) == ["2"]
    await w.check_sound()
    await w.fill()
    await w.check_complete()


@pytest.mark.parametrize(
    "statement",
    [
        "update notes set views = views + 1",
        "update notes set body = body",
        "update notes set body = body || ' '",  # the ends are trimmed
        "update notes set id = id",
        "delete from notes where false",
        "insert into notes (id, body) select 9, 'x' where false",
        "insert into notes (id, body) values (1, 'x') on conflict do nothing",
        "insert into notes (id, body) values (1, 'x') on conflict (id) do update set views = 5",
        "select * from notes for update",
    ],
)
async def test_what_leaves_the_text_alone_enqueues_nothing(w: World, statement: str) -> None:
    await filled(w, "one", "two")
    await w.sql(statement)
    assert await w.jobs() == {}
    await w.check_complete()


async def test_delete_leaves_nothing_behind(w: World) -> None:
    await filled(w, "one", "two", "three")
    await w.sql("update notes set body = 'changed' where id = 2")
    await w.sql("delete from notes where id > 1")
    assert await w.jobs() == {}
    await w.check_complete()
    rows = await w.sql("select key from backline.stamps")
    assert rows == [{"key": "1"}]


async def test_delete_of_a_dead_letter(w: World, provider: StandInProvider) -> None:
    provider.behave(reject_marker="POISON")
    await w.insert("POISON", "good")
    await w.fill()
    await w.sql("delete from notes where id = 1")
    await w.check_complete()


async def test_truncate_forgets_everything(w: World) -> None:
    await filled(w, "one", "two")
    await w.sql("insert into notes (id, body) values (3, 'three')")
    await w.sql("truncate notes")
    assert await w.jobs() == {}
    await w.check_complete()
    assert (await w.store.coverage(w.collection)).rows == 0
    await filled(w, "again")


async def test_copy_enqueues_its_rows(w: World) -> None:
    await w.insert(*(f"text {n}" for n in range(300)))  # by COPY
    assert len(await w.jobs()) == 300
    await w.check_sound()


async def test_a_changed_key_is_another_row(w: World) -> None:
    await filled(w, "one", "two")
    await w.sql("update notes set id = 10 where id = 1")
    assert list(await w.jobs()) == ["10"]
    await w.check_sound()
    await w.fill()
    await w.check_complete()


async def test_a_changed_key_pays_for_nothing(w: World, provider: StandInProvider) -> None:
    await filled(w, "one", "two")
    await w.sql("update notes set id = id + 100")
    await w.fill()
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_keys_that_change_places(w: World) -> None:
    await w.sql("alter table notes drop constraint notes_pkey")
    await w.sql("alter table notes add primary key (id) deferrable initially deferred")
    await filled(w, "one", "two")
    await w.sql("update notes set id = 3 - id")
    assert sorted(await w.jobs()) == ["1", "2"]
    await w.fill()
    await w.check_complete()


async def test_upsert_follows_both_halves(w: World) -> None:
    await filled(w, "one", "two")
    await w.sql(
        "insert into notes (id, body) values (2, 'TWO'), (3, 'three') "
        "on conflict (id) do update set body = excluded.body"
    )
    assert sorted(await w.jobs()) == ["2", "3"]
    await w.check_sound()
    await w.fill()
    await w.check_complete()


async def test_merge_follows_all_its_branches(w: World) -> None:
    await filled(w, "one", "two", "three")
    await w.sql(
        "merge into notes n using (values (1, 'ONE'), (2, 'gone'), (4, 'four')) v (id, body) "
        "on n.id = v.id "
        "when matched and v.body = 'gone' then delete "
        "when matched then update set body = v.body "
        "when not matched then insert (id, body) values (v.id, v.body)"
    )
    assert sorted(await w.jobs()) == ["1", "4"]
    await w.check_sound()
    await w.fill()
    await w.check_complete()


async def test_writable_ctes_that_touch_a_row_twice(w: World) -> None:
    await filled(w, "one", "two")
    await w.sql(
        "with gone as (delete from notes where id = 1 returning *), "
        "changed as (update notes set body = 'TWO' where id = 2) "
        "insert into notes (id, body) select id + 10, body from gone"
    )
    await w.check_sound()
    await w.fill()
    await w.check_complete()


async def test_delete_and_insert_again_in_one_transaction(w: World) -> None:
    await filled(w, "one", "two")
    async with w.another_user() as user:
        await execute(user, "delete from notes where id = 1")
        await execute(user, "insert into notes (id, body) values (1, 'one, anew')")
        await user.commit()
    await w.check_sound()
    await w.fill()
    await w.check_complete()


async def test_what_is_rolled_back_never_was(w: World) -> None:
    await filled(w, "one", "two")
    async with w.another_user() as user:
        await execute(user, "update notes set body = 'never'")
        await execute(user, "insert into notes (id, body) values (9, 'never')")
        await execute(user, "delete from notes where id = 1")
    assert await w.jobs() == {}
    await w.check_complete()


async def test_a_foreign_key_that_cascades(w: World) -> None:
    await w.sql("create table authors (id int primary key)")
    await w.sql(
        "alter table notes add column author int references authors on delete cascade "
        "on update cascade"
    )
    await w.sql("insert into authors values (1), (2)")
    await w.sql("insert into notes (id, body, author) values (1, 'a', 1), (2, 'b', 2)")
    await w.fill()
    await w.sql("delete from authors where id = 1")
    await w.check_complete()
    await w.sql("update authors set id = 3")
    await w.check_complete()


async def test_partitions(store: Store, provider: StandInProvider) -> None:
    ddl = """
    create table notes (id bigint primary key, body text) partition by range (id);
    create table notes_low partition of notes for values from (0) to (100);
    create table notes_high partition of notes for values from (100) to (1000);
    """
    async with world(store, provider, ddl=ddl) as w:
        await w.sql("insert into notes (id, body) values (1, 'one'), (200, 'two')")
        await w.fill()
        await w.check_complete()
        await w.sql("update notes set id = 300 where id = 1")
        await w.sql("delete from notes where id = 200")
        await w.check_sound()
        await w.fill()
        await w.check_complete()
        await w.sql("truncate notes")
        await w.check_complete()


@pytest.mark.parametrize("later", [False, True])
async def test_rows_that_turn_blank_and_back(w: World, later: bool) -> None:
    await w.insert("", None, " \n\t", "text")
    if later:
        await w.fill()
    for body in ("now a text", "", "another", None):
        await w.sql("update notes set body = %s where id = 1", body)
        await w.check_sound()
        await w.fill()
        await w.check_complete()
    coverage = await w.store.coverage(w.collection)
    assert (coverage.rows, coverage.blank, coverage.embedded) == (4, 3, 1)


async def test_a_user_without_any_right_on_the_schema(w: World, database: str) -> None:
    role = f"writer_{w.collection.id}_{time.monotonic_ns()}"
    await w.sql(f"create role {role} login")
    try:
        await w.sql(f"grant select, insert, update, delete, truncate on notes to {role}")
        async with await connect(database.replace("postgres:@", f"{role}:@")) as user:
            assert await execute(user, "select current_user as who") == [{"who": role}]
            await execute(user, "insert into notes (id, body) values (1, 'one'), (2, 'two')")
            await execute(user, "update notes set body = 'ONE' where id = 1")
            await execute(user, "delete from notes where id = 2")
            await w.check_sound()
            assert list(await w.jobs()) == ["1"]
            await execute(user, "truncate notes")
            await w.check_complete()
    finally:
        await w.sql(f"drop owned by {role}")
        await w.sql(f"drop role {role}")


async def test_the_session_settings_of_a_user_change_no_text(
    store: Store, provider: StandInProvider
) -> None:
    """The text of a row is the same whoever reads it, or an edit would be missed or made up."""
    ddl = """
    create table notes (id bigint primary key, at timestamptz, took interval, raw bytea,
                        ratio float8, day date);
    insert into notes values
      (1, '2026-01-02 03:04:05+00', '1 day 02:03:04', '\\xdeadbeef', 0.1, '2026-02-03')
    """
    template = "{at} {took} {raw} {ratio} {day}"
    async with world(store, provider, ddl=ddl, template=template) as w:
        await w.fill()
        [call] = provider.calls
        assert call.texts == ("2026-01-02 03:04:05+00 1 day 02:03:04 \\xdeadbeef 0.1 2026-02-03",)
        await w.sql(
            "set timezone = 'Asia/Tokyo'; set datestyle = 'German'; "
            "set intervalstyle = 'iso_8601'; "
            "set bytea_output = 'escape'; set extra_float_digits = -10"
        )
        await w.sql("update notes set id = id")
        assert await w.jobs() == {}
        await w.sql("update notes set ratio = 0.1 + 1e-16")  # seen only with all the digits
        assert list(await w.jobs()) == ["1"]


async def test_the_settings_of_a_worker_change_no_text(
    store: Store, provider: StandInProvider, database: str
) -> None:
    ddl = """
    create table notes (id bigint primary key, at timestamptz, took interval, raw bytea,
                        ratio float8);
    insert into notes values
      (1, '2026-01-02 03:04:05+00', '1 day 02:03:04', '\\xdeadbeef', 0.1::float4)
    """
    async with world(store, provider, ddl=ddl, template="{at} {took} {raw} {ratio}") as w:
        await w.fill()
        [row] = await w.sql("select current_database() as name")
        for setting in (
            "timezone = 'Asia/Tokyo'",
            "datestyle = 'German'",
            "intervalstyle = 'iso_8601'",
            "bytea_output = 'escape'",
            "extra_float_digits = -10",
        ):
            await w.sql(f"alter database {row['name']} set {setting}")
        other = Connector(database)
        await other.open()
        w.store = Store(other)
        report = await w.fill()
        assert report.due == 0
        await w.sql("delete from backline.stamps")
        await w.fill()
        assert len(provider.calls) == 1  # the text is the same, so its vector is known
        await other.aclose()


# --- sync -----------------------------------------------------------------------------------------


async def test_sync_embeds_edits_as_they_come(w: World, provider: StandInProvider) -> None:
    async with w.following(poll=30):
        for n in range(5):
            await w.sql("insert into notes (id, body) values (%s, %s)", n, f"text {n}")
            await w.settled(within=10)
        await w.sql("update notes set body = 'changed' where id = 3")
        await w.settled(within=10)
        await w.sql("delete from notes where id = 4")
        await w.check_sound()
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_a_text_that_was_stored_while_a_row_of_it_was_claimed_is_not_paid_for_again(
    w: World, provider: StandInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim looked before the vector was there, and answers after it was stored."""
    claim, answered = w.store.claim, asyncio.Event()

    async def slow(*args: Any) -> list[Job]:
        jobs = await claim(*args)
        if [(job.key, job.action) for job in jobs] == [("2", "embed")]:
            answered.set()
            await eventually(lambda: sync.settled == 1, "the first row to be stored")
        return jobs

    monkeypatch.setattr(w.store, "claim", slow)
    async with w.following(poll=0.05) as sync:
        with provider.held():
            await w.sql("insert into notes (id, body) values (1, 'same')")
            await asyncio.to_thread(provider.wait_in_flight)
            await w.sql("insert into notes (id, body) values (2, 'same')")
            await asyncio.wait_for(answered.wait(), 30)
        await eventually(lambda: sync.settled == 2, "the second row to be stored")
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_notify_wakes_sync(w: World) -> None:
    """With a poll of an hour, only the notification can have done it."""
    async with w.following(poll=3600) as sync:
        await w.sql("insert into notes (id, body) values (1, 'one')")
        await eventually(lambda: sync.settled == 1, "the first edit")
        await asyncio.sleep(0.2)  # it is asleep again
        await w.sql("insert into notes (id, body) values (2, 'two')")
        await eventually(lambda: sync.settled == 2, "the second edit")


async def test_sync_listens_again_after_its_connection_was_cut(w: World) -> None:
    async with w.following(poll=3600) as sync:
        await w.sql("insert into notes (id, body) values (1, 'one')")
        await eventually(lambda: sync.settled == 1, "the first edit")
        await w.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'backline' and datname = current_database()"
        )
        await w.sql("insert into notes (id, body) values (2, 'two')")
        await eventually(lambda: sync.settled == 2, "the second edit")
    await w.check_complete()


async def test_sync_polls_where_no_session_lasts(w: World) -> None:
    w.store.connector.has_sessions = False
    async with w.following(poll=3600) as sync:
        await w.sql("insert into notes (id, body) values (1, 'one')")
        await eventually(lambda: sync.settled == 1, "the edit")
        listening = await w.sql(
            "select 1 from pg_stat_activity where query ilike 'listen%%' "
            "and datname = current_database()"
        )
        assert listening == []
    await w.check_complete()


async def test_an_edit_of_many_rows_at_once(w: World, provider: StandInProvider) -> None:
    await filled(w, *(f"text {n}" for n in range(200)))
    async with w.following():
        await w.sql("update notes set body = body || ', edited'")
        await w.settled()
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_two_collections_on_one_table(w: World, provider: StandInProvider) -> None:
    """Each follows its own text, and the vectors of one are no edit to the other."""
    other = await w.store.add_collection(
        "titles", (await w.store.find_table("notes"))["oid"], key=None, template="{views}",
        column="embedding_views", model=w.embedder.model,
    )  # fmt: skip
    titles = await w.store.collection("titles")
    assert titles.id == other
    await w.insert("one", "two")
    await w.fill()
    first, w.collection = w.collection, titles
    await w.fill()
    assert await w.jobs() == {}
    await w.sql("update notes set views = views + 1")
    assert sorted(await w.jobs()) == ["1", "2"]
    w.collection = first
    assert await w.jobs() == {}
    await w.check_sound()
