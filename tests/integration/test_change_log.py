"""The change log: statements of the application never fail or wait, and no change is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from tests.conftest import server_folder, stop_embedded
from tests.integration.harness import (
    World,
    connect,
    during_call,
    eventually,
    execute,
    make_world,
    overpaid,
    texts,
)
from tests.provider import StandInProvider

from backline import reconcile
from backline.embedders.hash import HashEmbedder
from backline.estimation import estimate
from backline.postgres import embedded, migrate
from backline.postgres.store import open_store
from backline.verification import verify


async def lines(world: World) -> list[dict[str, Any]]:
    """Return the lines of the log in the order in which they were written."""
    return await world.sql("select kind, delta, amount, keys from backline.changes order by id")


async def edit_each_way(world: World) -> None:
    """Insert, update, update without a change of text, delete and truncate."""
    await world.sql("insert into notes (id, body) values (101, 'new'), (102, 'newer')")
    await world.sql("update notes set body = 'edited' where id = 101")
    await world.sql("update notes set views = views + 1")
    await world.sql("delete from notes where id = 102")
    await world.sql("truncate notes")
    await world.sql("insert into notes (id, body) values (1, 'one'), (2, 'two')")


# --- one line a statement -------------------------------------------------------------------------


async def test_statement_appends_one_line(world: World) -> None:
    await world.insert("one", "two", "three")
    await world.sql("update notes set body = 'edited' where id > 1")
    await world.sql("update notes set views = 1")
    await world.sql("delete from notes where id = 3")
    found = await lines(world)
    assert [(r["kind"], r["delta"], sorted(r["keys"])) for r in found] == [
        ("+", 3, ["1", "2", "3"]), ("~", 0, ["2", "3"]), ("-", -1, ["3"]),
    ]  # fmt: skip


async def test_statement_writes_to_no_other_table_of_the_schema(world: World) -> None:
    await world.insert(*texts(5))
    await world.fill()
    async with world.another_user() as user:
        for statement in (
            "insert into notes (id, body) values (101, 'new'), (102, 'newer')",
            "update notes set body = 'edited' where id in (1, 101)",
            "update notes set embedding = null where id = 2",
            "update notes set id = 103 where id = 102",
            "delete from notes where id in (3, 101)",
            "truncate notes",
        ):
            await execute(user, statement)
        assert await execute(
            user,
            "select relname from pg_stat_xact_user_tables where schemaname = 'backline' "
            "and n_tup_ins + n_tup_upd + n_tup_del > 0",
        ) == [{"relname": "changes"}]
        assert await execute(
            user,
            "select distinct k.relname from pg_locks l join pg_class k on k.oid = l.relation "
            "where l.pid = pg_backend_pid() and k.relnamespace = 'backline'::regnamespace "
            "and l.mode not in ('AccessShareLock', 'RowShareLock') and k.relkind = 'r'",
        ) == [{"relname": "changes"}]


@pytest.mark.parametrize("length", [100, 5_000, 500_000])
async def test_only_rows_with_another_text_are_logged(world: World, length: int) -> None:
    """A long text is in TOAST, which the trigger compares by its address."""
    await world.sql("alter table notes alter body set storage external")
    await world.sql(
        "insert into notes (id, body) select i, repeat(i::text, %s) from generate_series(1, 3) i",
        length,
    )
    await world.sql("delete from backline.changes")
    await world.sql("update notes set views = views + 1, body = body where id < 3")
    assert await lines(world) == []
    await world.sql("update notes set body = body || 'x', views = 7 where id = 2")
    await world.sql("update notes set body = repeat('1', %s) where id = 1", length)
    assert [(r["kind"], r["keys"]) for r in await lines(world)] == [("~", ["2"])]


@pytest.mark.parametrize("rows", [3, 300])
@pytest.mark.parametrize(
    "change",
    [
        "title = body, body = title",  # where one of them is null
        "title = title || body, body = ''",
        "title = '1/' || title",
        "body = lower(body)",
    ],
)
async def test_text_that_moves_between_columns_is_logged(
    world: World, rows: int, change: str
) -> None:
    async with make_world(
        world.store,
        ddl="create table parts (id int primary key, title text, body text)",
        embedder=HashEmbedder(8), table="parts", template="{title} {body}",
    ) as parts:  # fmt: skip
        await parts.sql(
            "insert into parts select i, case when i > 1 then 'A' || i end, 'B' "
            "from generate_series(1, %s) i",
            rows,
        )
        await parts.sql("delete from backline.changes")
        await parts.sql(f"update parts set {change}")
        [line] = await parts.sql("select kind, amount from backline.changes")
        assert line["kind"] == "~"
        assert line["amount"] >= rows - 1


async def test_vector_set_or_emptied_by_hand_is_logged(world: World) -> None:
    await world.insert("one", "two")
    await world.fill()
    await world.sql("update notes set embedding = null where id = 2")
    assert list(await world.jobs()) == ["2"]
    await world.fill()
    await world.check_complete()


@pytest.mark.parametrize("statement", ["insert", "update", "delete"])
async def test_large_statement_is_applied_in_steps(world: World, statement: str) -> None:
    await world.insert(*texts(2500))
    if statement != "insert":
        await world.fill()
    if statement == "update":
        await world.sql("update notes set body = body || '!'")
    elif statement == "delete":
        await world.sql("delete from notes")
    steps = 0
    left = True
    while left:
        [row] = await world.sql("select backline.apply_changes(%s) as left", world.collection.id)
        left, steps = row["left"], steps + 1
        await world.check_consistent()
    assert steps >= 5
    await world.fill()
    await world.check_complete()


async def test_changed_keys_of_many_rows_are_applied_in_steps(world: World) -> None:
    await world.insert(*texts(1500))
    await world.fill()
    await world.sql("update notes set id = id + 10000")
    await world.fill()
    await world.check_complete()
    assert await world.sql("select count(*) from backline.stamps") == [{"count": 1500}]


async def test_each_collection_of_a_table_logs_its_own_text(world: World) -> None:
    """Vectors of the one are no edit for the other."""
    ddl = "create table parts (id int primary key, title text, body text, more text)"
    first, second = HashEmbedder(8), HashEmbedder(16)
    declaration: dict[str, Any] = {"table": "parts", "column": "a", "name": "bodies"}
    async with make_world(world.store, ddl=ddl, embedder=first, **declaration) as bodies:
        declaration = {"table": "parts", "column": "b", "name": "titles", "template": "{title}"}
        async with make_world(
            world.store, ddl="select 1", embedder=second, **declaration
        ) as titles:
            await bodies.sql("insert into parts values (1, 'A', 'a'), (2, 'B', 'b'), (3, 'C', 'c')")
            for each in (bodies, titles):
                assert (await each.fill()).embedded == 3
            assert await lines(bodies) == []
            await bodies.sql("update parts set more = 'x'")
            await bodies.sql("update parts set body = 'edited' where id = 1")
            await bodies.sql("update parts set title = 'edited' where id = 2")
            await bodies.sql("update parts set b = null where id = 3")
            logged = await bodies.sql(
                "select c.name, l.keys from backline.changes l "
                "join backline.collections c on c.id = l.collection_id order by l.id"
            )
            assert [(r["name"], *r["keys"]) for r in logged] == [
                ("bodies", "1"), ("titles", "2"), ("titles", "3"),
            ]  # fmt: skip
            await bodies.sql("delete from parts where id = 1")
            for each in (bodies, titles):
                assert (await each.fill()).complete
                assert (await verify(each.store, each.collection)).passed
            await titles.store.drop_collection(titles.collection, drop_column=True)
            await bodies.sql("update parts set title = 'again', body = 'again' where id = 2")
            assert [r["keys"] for r in await lines(bodies)] == [["2"]]
            await bodies.fill()
            await bodies.check_complete()


SUBPARTITIONED = """
create table notes (id bigint primary key, body text, views int not null default 0)
  partition by range (id);
create table low partition of notes for values from (1) to (100) partition by hash (id);
create table low_0 partition of low for values with (modulus 2, remainder 0);
create table low_1 partition of low for values with (modulus 2, remainder 1);
create table high partition of notes for values from (100) to (200);
"""


async def test_statements_that_name_any_level_of_partitions_are_logged(world: World) -> None:
    await world.store.drop_collection(world.collection, drop_column=True)
    await world.sql("drop table notes")
    async with make_world(world.store, ddl=SUBPARTITIONED, embedder=HashEmbedder(8)) as parts:
        await parts.insert(*texts(20))
        await parts.insert(*texts(5), first=101)
        await parts.fill()
        [leaf] = await parts.sql(
            "select tableoid::regclass::text as name, min(id) as id from notes where id < 100 "
            "group by 1 order by 1 limit 1"
        )
        for statement in (
            "insert into low (id, body) values (50, 'middle')",
            f"update {leaf['name']} set body = 'leaf' where id = {leaf['id']}",
            "update low set body = 'middle' where id = 3",
            "update notes set id = id + 150 where id = 4",
            "delete from high where id = 101",
            "update notes set views = 1",
        ):
            await parts.sql(statement)
        found = [(r["kind"], *sorted(r["keys"])) for r in await lines(parts)]
        assert found == [
            ("+", "50"), ("~", str(leaf["id"])), ("~", "3"), ("~", "154"), ("-", "4"), ("-", "101"),
        ]  # fmt: skip
        await parts.fill()
        await parts.check_complete()
        await parts.sql("truncate low")
        await parts.fill()
        await parts.check_complete()
        assert (await parts.store.coverage(parts.collection)).rows == 5


# --- the host comes first -------------------------------------------------------------------------

DAMAGE = {
    "the log is dropped": "drop table backline.changes",
    "the log has no column for keys": "alter table backline.changes drop column keys",
    "the log has another column": "alter table backline.changes add extra int not null",
    "the log refuses every line": "alter table backline.changes add check (amount < 0)",
    "the log has no identity": "alter table backline.changes alter id drop identity",
    "the log has a trigger that fails": (
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin raise 'refused'; end $$; create trigger refuse before insert "
        "on backline.changes for each row execute function refuse()"
    ),
    "the key column is renamed": "alter table notes rename id to number",
    "the text column is renamed": "alter table notes rename body to content",
    "the text column is dropped": "alter table notes drop body",
    "the vector column is dropped": "alter table notes drop embedding",
    "the key and its constraint are dropped": "alter table notes drop id",
    "the text has another type": "alter table notes alter body type json using to_json(body)",
    "the table is renamed": "alter table notes rename to papers",
    "collections are gone": "delete from backline.collections",
    "the schema is renamed": "alter schema backline rename to other",
    "the schema is dropped": "drop schema backline cascade",
    "jobs are dropped": "drop table backline.jobs cascade",
    "a function is dropped": "drop function backline.apply_changes",
    "the count of missed changes is dropped too": (
        "drop table backline.changes; drop sequence backline.missed"
    ),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
async def test_statements_go_on_after(world: World, damage: str) -> None:
    await world.insert("one", "two", "three")
    await world.fill()
    await world.user.execute(DAMAGE[damage])
    [columns] = await world.sql(
        "select array_agg(attname::text order by attnum) as names, "
        "attrelid::regclass::text as name from pg_attribute "
        "where attrelid = %s and attnum > 0 and not attisdropped group by 2",
        await oid_of_notes(world),
    )
    table, names = columns["name"], columns["names"]
    for statement in (
        f"update {table} set views = views + 1",
        f"insert into {table} (views) values (7)" if "id" not in names and "number" not in names
        else f"insert into {table} ({names[0]}, views) values (50, 7)",
        f"delete from {table} where views = 7",
        f"truncate {table}",
    ):  # fmt: skip
        await world.sql(statement)


async def oid_of_notes(world: World) -> int:
    [row] = await world.sql(
        "select oid::int as oid from pg_class where relname in ('notes', 'papers') "
        "and relkind = 'r'"
    )
    return int(row["oid"])


async def test_change_that_cannot_be_logged_is_counted(world: World) -> None:
    await world.sql("alter table backline.changes add check (amount < 0)")
    [before] = await world.sql("select last_value from backline.missed")
    await world.sql("insert into notes (id, body) values (1, 'one')")
    [after] = await world.sql("select last_value, is_called from backline.missed")
    assert after["is_called"]
    assert after["last_value"] >= before["last_value"]


async def test_large_statement_that_cannot_be_logged_goes_on(world: World) -> None:
    """Its keys may exceed the memory, also after a statement that was logged."""
    async with world.another_user() as user:
        await execute(user, "insert into notes (id, body) values (1, 'one')")
        await execute(user, "alter table backline.changes add check (amount < 1000)")
        await execute(
            user, "insert into notes (id, body) select i, 'text' from generate_series(2, 2000) i"
        )
        await execute(user, "alter table backline.changes drop constraint changes_amount_check")
        await user.commit()
    assert [r["amount"] for r in await lines(world)] == [1]


async def test_serializable_transaction_does_not_fail_because_of_a_worker(world: World) -> None:
    """Where the database's default is serializable, also for the worker."""
    await world.insert("one", "two")
    await world.set_database_default("default_transaction_isolation = serializable")
    async with open_store(world.store.connector.conninfo) as store, world.another_user() as user:
        assert len(await execute(user, "select id, embedding from notes")) == 2
        await replace(world, store=store).fill()
        await execute(user, "insert into notes (id, body) values (3, 'three')")
        await user.commit()
    await world.fill()
    await world.check_complete()


async def test_key_that_several_rows_have_stops_no_worker(world: World) -> None:
    await world.insert("one", "two")
    await world.sql("alter table notes drop constraint notes_pkey")
    async with world.syncing():
        await world.sql(
            "insert into notes (id, body) values (8, 'a'), (8, 'b'), (9, 'c'), (9, 'c')"
        )
        await world.sql("insert into notes (id, body) values (10, 'ten')")

        async def embedded() -> bool:
            return not await world.sql("select from notes where embedding is null and id <> 8")

        await eventually(embedded, "the other rows to be embedded", 20)
        await world.wait_until_idle(20)
    assert not (await world.store.coverage(world.collection)).complete


async def test_statement_does_not_wait_for_a_locked_log(world: World) -> None:
    await world.sql("set statement_timeout = '5s'")
    async with world.another_user() as other:
        await execute(other, "lock table backline.changes in access exclusive mode")
        await edit_each_way(world)
    await world.sql("insert into notes (id, body) values (9, 'nine')")
    assert (await lines(world))[-1]["keys"] == ["9"]


async def test_statement_does_not_wait_for_a_worker(world: World) -> None:
    """Not even for one that has stopped in the middle of a claim."""
    await world.insert("one", "two", "three")
    await world.fill()
    await world.sql("update notes set body = body || ', edited'")
    await world.sql("set lock_timeout = '50ms'")
    async with world.another_user() as worker:
        await execute(worker, "select backline.apply_changes(%s)", world.collection.id)
        await world.sql("insert into notes (id, body) values (4, 'four')")
        await world.sql("update notes set body = 'edited again' where id < 3")
        await world.sql("delete from notes where id = 3")
        await worker.commit()
    await world.fill()
    await world.check_complete()


async def test_transaction_of_many_statements_needs_one_subtransaction(world: World) -> None:
    """More than 64 subtransactions would slow down every snapshot of the server."""
    next_xid = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as xid"
    [before] = await world.sql(next_xid)
    async with world.another_user() as user:
        for n in range(100):
            await execute(user, "insert into notes (id, body) values (%s, 'text')", n)
        await user.commit()
    [after] = await world.sql(next_xid)
    assert after["xid"] - before["xid"] <= 5


async def test_statement_after_a_savepoint_was_rolled_back_is_logged(world: World) -> None:
    async with world.another_user() as user:
        await execute(user, "savepoint one")
        await execute(user, "insert into notes (id, body) values (1, 'rolled back')")
        await execute(user, "rollback to one")
        await execute(user, "insert into notes (id, body) values (2, 'two')")
        await user.commit()
    assert list(await world.jobs()) == ["2"]
    await world.check_consistent()


async def test_transaction_can_be_prepared(provider: StandInProvider) -> None:
    with server_folder() as data:
        with psycopg.connect(embedded.start(data), autocommit=True) as admin:
            admin.execute("alter system set max_prepared_transactions = 4")
        stop_embedded(data)
        url = embedded.start(data)
        async with open_store(url) as store:
            await migrate.apply(store.connector)
            async with make_world(store, provider) as world:
                await world.insert("one", "two")
                await world.fill()
                for statement in (
                    "insert into notes (id, body) values (3, 'three')",
                    "update notes set body = 'ONE' where id = 1",
                    "delete from notes where id = 2",
                ):
                    before = await world.jobs()
                    await world.sql("begin")
                    await world.sql(statement)
                    await world.sql("prepare transaction 'x'")
                    assert await world.jobs() == before
                    await world.sql("commit prepared 'x'")
                    await world.check_consistent()
                await world.fill()
                await world.check_complete()


# --- no change is lost ----------------------------------------------------------------------------


async def test_line_of_an_older_transaction_that_commits_late_is_found(world: World) -> None:
    """A session skips lines that it has seen applied; this one was not visible then."""
    async with world.another_user() as slow:
        await execute(slow, "insert into notes (id, body) values (1, 'slow')")
        for n in range(2, 6):
            await world.sql("insert into notes (id, body) values (%s, 'quick')", n)
            await world.apply_changes()
            assert not await has_changes(world)
        await slow.commit()
    assert await has_changes(world)
    assert sorted(await world.jobs()) == ["1", "2", "3", "4", "5"]
    await world.check_consistent()


async def has_changes(world: World) -> bool:
    [row] = await world.sql("select backline.has_changes(%s) as found", world.collection.id)
    return bool(row["found"])


async def test_poll_does_not_read_the_dead_lines_of_a_long_transaction(world: World) -> None:
    """The long transaction keeps vacuum from removing 3,000 lines."""
    async with world.another_user() as long:
        await execute(long, "set transaction isolation level repeatable read")
        await execute(long, "select 1")
        for n in range(300):
            await world.sql("insert into notes (id, body) values (%s, 'text')", n)
        await world.apply_changes()
        assert not await has_changes(world)
        await world.sql("insert into notes (id, body) values (1000, 'text')")
        await world.apply_changes()
        assert not await has_changes(world)
        [row] = await world.sql(
            "explain (analyze, buffers, format json) select backline.has_changes(%s)",
            world.collection.id,
        )
        plan = row["QUERY PLAN"][0]["Plan"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 20


async def test_applier_does_not_read_the_dead_lines_of_a_long_transaction(world: World) -> None:
    async with world.another_user() as long:
        await execute(long, "set transaction isolation level repeatable read")
        await execute(long, "select 1")
        for n in range(300):
            await world.sql("insert into notes (id, body) values (%s, 'text')", n)
        for _ in range(5):
            await world.sql("select backline.apply_changes(%s, false, 50)", world.collection.id)
        assert await has_changes(world)
        [line] = await world.sql("select min(xid) as xid from backline.changes")
        [start] = await world.sql("select backline.log_start(%s) as xid", world.collection.id)
        assert start == line


async def test_only_one_session_applies_the_lines_of_a_collection(world: World) -> None:
    await world.insert(*texts(20))
    async with world.another_user() as other:
        await execute(other, "select backline.apply_changes(%s)", world.collection.id)
        [row] = await world.sql("select backline.apply_changes(%s) as left", world.collection.id)
        assert row["left"] is None
        lease = await world.store.register(world.collection, None, lease=30)
        assert await world.store.claim(world.collection, lease.worker, 10) == []
        await other.rollback()
    assert len(await world.store.claim(world.collection, lease.worker, 100)) == 20
    await world.store.unregister(lease)
    await world.fill()
    await world.check_complete()


async def test_change_that_a_batch_lease_has_read_makes_no_job(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(1100))  # left to the scan
    await world.sql("update notes set body = body || ', edited'")
    leased_twice = (
        "select j.key from backline.jobs j where j.key in "
        "(select unnest(b.keys) from backline.batch_leases b)"
    )
    async with during_call(world, provider):
        await world.apply_changes()
        assert await world.sql(leased_twice) == []
        await world.sql("update notes set body = 'edited again' where id = 1")
        await world.apply_changes()
        assert await world.sql(leased_twice) == [{"key": "1"}]
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_change_that_a_claimed_job_has_read_does_not_release_it(world: World) -> None:
    await world.insert("first")
    await world.apply_changes()
    await world.sql("update notes set body = 'edited'")
    lease = await world.store.register(world.collection, None, lease=30)
    async with world.another_user() as other:  # keeps the claim from applying the change
        await execute(other, "select backline.lock(%s, 'log')", world.collection.id)
        [job] = await world.store.claim(world.collection, lease.worker, 10)
        assert job.content == "edited"
        await other.rollback()
    await world.apply_changes()
    assert await world.jobs() == {"1": lease.worker}
    await world.sql("update notes set body = 'edited again'")
    assert await world.jobs() == {"1": None}
    await world.store.unregister(lease)
    await world.fill()
    await world.check_complete()


async def test_edit_is_not_delayed_by_a_large_statement(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("first")
    await world.fill()
    provider.behave(delay_s=0.05)
    async with world.syncing(batch_size=10, concurrency=1):
        await world.insert(*texts(1500), first=100)
        await eventually(lambda: len(provider.calls) > 3, "the large statement to be embedded")
        await world.sql("update notes set body = 'edited' where id = 1")
        await eventually(lambda: "edited" in provider.texts_embedded, "the edit to be embedded", 20)
        assert list(provider.texts_embedded).index("edited") < 1300
        await world.wait_until_idle()
    await world.check_complete()


# --- rows that cannot be handled ------------------------------------------------------------------


# No index of the schema can hold it, and that of the table can.
LONG_KEY = "(select left(string_agg(md5(i::text), ''), 2690) from generate_series(1, 90) i)"


@asynccontextmanager
async def papers_with(world: World, *statements: str) -> AsyncIterator[World]:
    """Declare a table with text keys, after `statements`."""
    await world.sql("create table papers (id text primary key, body text)")
    for statement in statements:
        await world.sql(statement)
    async with make_world(
        world.store, ddl="select 1", embedder=HashEmbedder(8), table="papers"
    ) as papers:
        yield papers


async def check_refused(papers: World) -> None:
    """Assert that the row with the long key is a dead letter, and the other one embedded."""
    coverage = await papers.store.checked_coverage(papers.collection)
    assert (coverage.rows, coverage.embedded, coverage.failed) == (2, 1, 1)
    assert not coverage.complete
    assert coverage.problems == ()
    [error] = (await papers.failures()).values()
    assert "2690 bytes" in error
    assert "--key" in error


@pytest.mark.parametrize("declared", ["before", "after"])
async def test_row_with_a_key_too_long_for_an_index_is_reported(
    world: World, declared: str
) -> None:
    insert = f"insert into papers (id, body) values ({LONG_KEY}, 'long')"
    async with papers_with(world, *[insert] * (declared == "after")) as papers:
        if declared == "before":
            await papers.sql(insert)
        await papers.sql("insert into papers values ('short', 'text')")
        assert not (await papers.fill()).complete
        await check_refused(papers)
        await papers.sql("delete from papers where id <> 'short'")
        await papers.apply_changes()
        assert await papers.failures() == {}
        assert (await papers.fill()).complete


async def reconcile_after_dry_run(world: World) -> dict[str, int]:
    """Reconcile after a dry run, and return what it found."""
    preview = await reconcile.Reconciliation(world.store, world.collection, dry_run=True).run()
    result = await reconcile.Reconciliation(world.store, world.collection).run()
    assert result.sound
    assert preview.found == result.found
    return result.found


async def test_every_scan_refuses_a_key_too_long_for_an_index(world: World) -> None:
    async with papers_with(
        world,
        f"insert into papers (id, body) values ({LONG_KEY}, 'long'), ('short', 'text')",
    ) as papers:
        assert (await estimate(papers.store, papers.collection, papers.embedder)).due == 1
        await papers.enqueue()
        assert await papers.jobs() == {"short": None}
        assert len(await papers.failures()) == 1
        await papers.fill()
        await check_refused(papers)
        assert await reconcile_after_dry_run(papers) == {}, (
            "the dead letter is of a row that exists"
        )
        await check_refused(papers)
        assert (await verify(papers.store, papers.collection)).problems == {"no vector": 1}
        sampled = await papers.sql(
            "select p.* from generate_series(1, 5), backline.problems(%s, 0) p",
            papers.collection.id,
        )
        assert sampled == []
        await papers.sql("delete from backline.failures")
        assert await reconcile_after_dry_run(papers) == {reconcile.LONG_KEY: 1}
        await check_refused(papers)
        await papers.bypassing_triggers("delete from papers where id <> 'short'")
        found = await reconcile_after_dry_run(papers)
        assert found["dead letter of a row that does not exist"] == 1
        assert (await papers.fill()).complete


@pytest.mark.parametrize(
    ("ddl", "insert"),
    [
        ("id numeric primary key, body text", "insert into papers values (7e2999, 'long')"),
        (
            "a text, b text, body text, primary key (a, b)",
            f"insert into papers values (left({LONG_KEY}, 1300), right({LONG_KEY}, 1300), 'long')",
        ),
    ],
)
async def test_keys_of_other_types_that_are_too_long(world: World, ddl: str, insert: str) -> None:
    ddl = f"create table papers ({ddl})"
    async with make_world(world.store, ddl=ddl, embedder=HashEmbedder(8), table="papers") as papers:
        await papers.sql(insert)
        report = await papers.fill()
        assert (report.coverage.rows, report.coverage.failed) == (1, 1)
        assert report.coverage.problems == ()
        assert await reconcile_after_dry_run(papers) == {}
        assert len(await papers.failures()) == 1
        await papers.sql("delete from papers")
        await papers.apply_changes()
        assert await papers.failures() == {}


async def test_update_that_makes_a_key_too_long_for_an_index(world: World) -> None:
    async with papers_with(world) as papers:
        await papers.sql("insert into papers values ('short', 'text'), ('other', 'text')")
        await papers.fill()
        await papers.sql(f"update papers set id = {LONG_KEY} where id = 'other'")
        await papers.fill()
        await check_refused(papers)
        assert await reconcile_after_dry_run(papers) == {}
        await papers.sql("update papers set id = 'other' where id <> 'short'")
        assert (await papers.fill()).complete


async def test_retry_and_truncation_keep_the_dead_letter_of_a_long_key(world: World) -> None:
    await world.sql(
        "create table papers (id text primary key, body text) partition by list (id); "
        "create table papers_1 partition of papers for values in ('short'); "
        "create table papers_2 partition of papers default"
    )
    async with make_world(
        world.store, ddl="select 1", embedder=HashEmbedder(8), table="papers"
    ) as papers:
        await papers.sql(f"insert into papers values ('short', 'text'), ({LONG_KEY}, 'long')")
        await papers.fill()
        assert await papers.store.retry_failures(papers.collection, None) == 0
        await papers.sql("truncate papers_1")
        await papers.sql("insert into papers values ('short', 'text')")
        await papers.fill()
        await check_refused(papers)
        await papers.sql("truncate papers_2")
        await papers.apply_changes()
        assert await papers.failures() == {}


async def test_log_is_read_over_a_connection_with_other_settings(world: World) -> None:
    """Keys are the same text in every session."""
    async with make_world(
        world.store,
        ddl="create table days (id timestamptz primary key, body text)",
        embedder=HashEmbedder(8), table="days",
    ) as days:  # fmt: skip
        async with await connect(world.store.connector.conninfo) as user:
            await execute(user, "set timezone = 'Asia/Tokyo'")
            await execute(user, "set datestyle = 'German'")
            await execute(user, "insert into days values ('2026-01-02 03:04:05+00', 'text')")
        await days.fill()
        await days.check_complete()


async def test_concurrent_writers_and_appliers_lose_nothing(
    world: World, provider: StandInProvider
) -> None:
    async def write(worker: int) -> None:
        async with await connect(world.store.connector.conninfo) as user:
            for n in range(40):
                key = worker * 1000 + n
                await execute(user, "insert into notes (id, body) values (%s, 'new')", key)
                await execute(user, "update notes set body = %s where id = %s", f"{key}", key)
                if n % 4 == 0:
                    await execute(user, "delete from notes where id = %s", key)

    async def apply() -> None:
        async with await psycopg.AsyncConnection.connect(
            world.store.connector.conninfo, autocommit=True, row_factory=dict_row
        ) as session:
            for _ in range(60):
                await session.execute("select backline.apply_changes(%s)", [world.collection.id])
                await asyncio.sleep(0.01)

    await asyncio.gather(*(write(n) for n in range(4)), apply(), apply())
    await world.check_consistent()
    await world.fill()
    await world.check_complete()


async def test_drain_waits_for_an_edit_that_was_applied_after_it_began(world: World) -> None:
    await world.insert("one")
    began = await world.store.now()
    await world.apply_changes()
    remain, _ = await world.store.outstanding(world.collection, began)
    assert remain
