"""The host changes its schema: its statements go on, and Backline follows or names problems."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import structlog
from tests.integration.harness import NOTES, World, eventually, make_world, texts

from backline import errors
from backline.embedders.hash import hash_vectors
from backline.postgres.store import Store
from backline.problems import watch_problems
from backline.reconcile import REPLACED, Reconciliation
from backline.verification import verify
from backline.worker.tasks import beside

ROWS = 30


@pytest.fixture
async def filled(store: Store) -> AsyncIterator[World]:
    """A table of 30 rows, all of them embedded."""
    async with make_world(store) as world:
        await world.insert(*texts(ROWS))
        await world.fill()
        assert await kinds(world) == set()
        yield world


async def kinds(world: World) -> set[str]:
    """Return the kinds of the collection's problems; each has a remedy."""
    problems = await world.store.problems(world.collection)
    assert all(each.problem and each.remedy for each in problems)
    return {each.kind for each in problems}


async def reload(world: World) -> None:
    """Read the collection again, as every command does at its start."""
    world.collection = await world.store.collection(world.collection.name)


async def reconcile(world: World) -> None:
    """Reconcile, which must repair everything."""
    result = await Reconciliation(world.store, world.collection).run()
    assert result.sound, result
    await reload(world)


async def check_honest(world: World) -> None:
    """Assert that nothing claims completeness, and that no more rows are embedded than exist."""
    coverage = await world.store.checked_coverage(world.collection)
    assert coverage.problems
    assert not coverage.complete
    assert coverage.embedded <= coverage.rows
    assert not (await verify(world.store, world.collection)).passed


async def check_embedded(world: World) -> None:
    """Assert that a backfill completes the table as it stands."""
    report = await world.fill()
    assert report.coverage.problems == ()
    assert report.complete, report
    verification = await verify(world.store, world.collection)
    assert verification.passed, verification
    assert verification.rows == report.coverage.rows


# --- columns and names ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A change of the table's definition, and the names that the host uses afterwards.

    `problems` are the kinds that are named; without any, the change is followed.
    """

    ddl: str
    table: str = "notes"
    key: str = "id"
    text: str | None = "body"
    vector: str | None = "embedding"
    problems: frozenset[str] = frozenset()


UNSCANNED = frozenset({"unscanned"})
FOLLOWED = {
    "text column renamed": Change("alter table notes rename body to content", text="content"),
    "text column with a name that a template cannot hold": Change(
        'alter table notes rename body to "a } b"', text='"a } b"'
    ),
    "key renamed": Change("alter table notes rename id to number", key="number"),
    "vector column renamed": Change("alter table notes rename embedding to v", vector="v"),
    "table renamed": Change('alter table notes rename to "My Notes"', table='"My Notes"'),
    "table moved": Change(
        "create schema other; alter table notes set schema other", table="other.notes"
    ),
    "schema renamed": Change(
        "create schema a; alter table notes set schema a; alter schema a rename to b",
        table="b.notes",
    ),
    "all renamed": Change(
        "alter table notes rename body to b; alter table notes rename id to i; "
        "alter table notes rename embedding to e; alter table notes rename to n",
        table="n", key="i", text="b", vector="e",
    ),
    "column added": Change("alter table notes add more text default 'x'"),
    "other column dropped and its number reused": Change(
        "alter table notes drop views; alter table notes add views int"
    ),
    "length changed": Change("alter table notes alter embedding type extensions.vector(8)"),
    "table made unlogged": Change("alter table notes set unlogged"),
    "replica identity": Change("alter table notes replica identity full"),
    "published": Change("create publication p for table notes"),
    "row level security": Change(
        "alter table notes enable row level security, force row level security"
    ),
}  # fmt: skip
RECONCILED = {
    "type of the text": Change(
        "alter table notes alter body type varchar(50) using upper(body)", problems=UNSCANNED
    ),
    "text column dropped and added": Change(
        "alter table notes drop body; alter table notes add body text", problems=UNSCANNED
    ),
    "names exchanged": Change(
        "alter table notes rename body to old_body; alter table notes add body text",
        text="old_body",
        problems=UNSCANNED,
    ),
    "names exchanged with the key": Change(
        "alter table notes rename body to b; alter table notes rename id to body; "
        "alter table notes rename embedding to id",
        key="body",
        text="b",
        vector="id",
        problems=UNSCANNED,
    ),
    "type of the key": Change("alter table notes alter id type int", problems=UNSCANNED),
    "vector column dropped": Change(
        "alter table notes drop embedding", vector=None, problems=frozenset({"column"})
    ),
    "vector column dropped and added": Change(
        "alter table notes drop embedding; alter table notes add embedding extensions.vector(8)",
        problems=frozenset({"unscanned", "vectors"}),
    ),
}
NAMED = {
    "text column dropped": Change(
        "alter table notes drop body", text=None, problems=frozenset({"column"})
    ),
    "key dropped": Change(
        "alter table notes drop id; alter table notes add number serial primary key",
        key="number", problems=frozenset({"column"}),
    ),
    "vector column of another type": Change(
        "alter table notes alter embedding type text", problems=frozenset({"column"})
    ),
    "vector column of other dimensions": Change(
        "alter table notes drop embedding; alter table notes add embedding extensions.vector(9)",
        problems=frozenset({"column", "unscanned", "vectors"}),
    ),
    "primary key dropped": Change(
        "alter table notes drop constraint notes_pkey", problems=frozenset({"key"})
    ),
}  # fmt: skip
CHANGES = {**FOLLOWED, **RECONCILED, **NAMED}


async def write(world: World, change: Change) -> None:
    """Insert, update and delete rows, as the host does."""
    table, key, text = change.table, change.key, change.text
    columns = f"({key}, {text}) values (101, 'inserted')" if text else f"({key}) values (101)"
    await world.sql(f"insert into {table} {columns}")
    await world.sql(f"update {table} set {text or 'views'} = '1' where {key} = 1")
    await world.sql(f"update {table} set views = 7 where {key} = 3")
    await world.sql(f"delete from {table} where {key} = 2")


@pytest.mark.parametrize("name", CHANGES)
async def test_statements_of_the_host_go_on_after_ddl(filled: World, name: str) -> None:
    change = CHANGES[name]
    await filled.sql(change.ddl)
    assert await kinds(filled) >= change.problems
    await write(filled, change)
    assert await kinds(filled) >= change.problems


@pytest.mark.parametrize("name", FOLLOWED)
async def test_renames_are_followed_at_once(filled: World, name: str) -> None:
    change = FOLLOWED[name]
    await filled.sql(change.ddl)
    await write(filled, change)
    assert await kinds(filled) == set()
    await reload(filled)
    await check_embedded(filled)
    await check_vector(filled, change, 1, "1")
    await check_vector(filled, change, 101, "inserted")


async def check_vector(world: World, change: Change, key: int, text: str) -> None:
    [row] = await world.sql(
        f"select {change.vector}::real[] as vector from {change.table} where {change.key} = {key}"
    )
    expected = hash_vectors([text], 8)[0]
    assert np.allclose(row["vector"], expected, atol=1e-4)


@pytest.mark.parametrize("name", FOLLOWED)
async def test_follow_records_the_present_names(filled: World, name: str) -> None:
    change = FOLLOWED[name]
    await filled.sql(change.ddl)
    await filled.store.follow(filled.collection)
    [row] = await filled.sql(
        "select key_columns[1] as key, embedding_column, quote_ident(table_name) as table_name "
        "from backline.collections where id = %s", filled.collection.id
    )  # fmt: skip
    assert row["key"] == change.key
    assert row["embedding_column"] == change.vector
    assert row["table_name"] == change.table.rpartition(".")[2]
    await write(filled, change)
    await reload(filled)
    await check_embedded(filled)
    await check_vector(filled, change, 1, "1")


@pytest.mark.parametrize("name", RECONCILED)
async def test_changes_without_triggers_are_named_until_reconciled(
    filled: World, name: str
) -> None:
    change = RECONCILED[name]
    await filled.sql(change.ddl)
    assert await kinds(filled) >= change.problems
    if change.vector:
        await check_honest(filled)
    await filled.store.follow(filled.collection)
    assert await kinds(filled) >= change.problems, "following hides the problem"
    if change.vector and change.key == "id":
        await write(filled, change)
    await reconcile(filled)
    await check_embedded(filled)


@pytest.mark.parametrize("name", NAMED)
async def test_what_cannot_be_followed_is_named_with_its_remedy(filled: World, name: str) -> None:
    change = NAMED[name]
    await filled.sql(change.ddl)
    assert await kinds(filled) >= change.problems
    assert not (await filled.store.checked_coverage(filled.collection)).complete
    await reload(filled)
    if name == "primary key dropped":
        assert not (await filled.fill()).complete
        return
    with pytest.raises(errors.ConfigurationError, match=r"backline|--column"):
        await filled.fill()


async def test_type_of_the_key_that_no_record_has(store: Store) -> None:
    ddl = NOTES.replace("id bigint", "id text")
    async with make_world(store, ddl=ddl) as world:
        await world.sql("insert into notes values ('a', 'one'), ('b', 'two')")
        await world.fill()
        await world.sql("alter table notes alter id type int using ascii(id)")
        await world.sql("insert into notes values (1, 'three')")
        assert await kinds(world) >= UNSCANNED
        await reconcile(world)
        await check_embedded(world)


async def test_edits_logged_before_the_type_of_the_key_changed(store: Store) -> None:
    """The log and the queue hold keys that are not of the new type."""
    ddl = NOTES.replace("id bigint", "id text")
    async with make_world(store, ddl=ddl) as world:
        await world.sql("insert into notes values ('a', 'one'), ('b', 'two')")
        await world.fill()
        await world.sql("insert into notes values ('c', 'three')")
        await world.enqueue()
        await world.sql("insert into notes values ('d', 'four')")
        await world.sql("alter table notes alter id type int using ascii(id)")
        await world.sql("insert into notes values (1, 'five')")
        async with world.syncing():
            await world.wait_until_idle()
        await reconcile(world)
        await check_embedded(world)


async def test_keyword_index_follows_its_columns(filled: World) -> None:
    async def found(query: str) -> list[str]:
        rows = await filled.sql(
            "select key from backline.search(%s, 'keyword', %s, null, 10)",
            filled.collection.id, query,
        )  # fmt: skip
        return [row["key"] for row in rows]

    await filled.sql("alter table notes rename body to content")
    await filled.sql("update notes set content = 'zebra' where id = 3")
    await filled.fill()
    assert await found("zebra") == ["3"]
    await filled.store.follow(filled.collection)
    await filled.sql("update notes set content = 'giraffe' where id = 4")
    await filled.fill()
    assert await found("giraffe") == ["4"]
    assert await found("zebra") == ["3"]


# --- another table --------------------------------------------------------------------------------

COPY = "create table n2 (like notes including all); insert into n2 select * from notes; "
REPLACEMENTS = {
    "two renames": COPY + "alter table notes rename to old; alter table n2 rename to notes",
    "two renames, the old one dropped": COPY
    + "alter table notes rename to old; alter table n2 rename to notes; drop table old",
    "dropped and created": COPY + "drop table notes; alter table n2 rename to notes",
    "created without the vector column": "drop table notes; create table notes (body text, "
    "id bigint primary key, views int default 0); insert into notes values ('text 1', 1), ('n', 2)",
    "restored from a copy": "create schema backup; alter table notes set schema backup; "
    "create table notes (like backup.notes including all); insert into notes "
    "select * from backup.notes where id <> 5",
}


@pytest.mark.parametrize("name", REPLACEMENTS)
async def test_replaced_table_is_named_and_reconcile_follows_it(filled: World, name: str) -> None:
    await filled.sql(REPLACEMENTS[name])
    await filled.sql("update notes set body = 'edited' where id = 1")
    await filled.sql("insert into notes (id, body) values (101, 'inserted')")
    assert await kinds(filled) >= {"table"}
    assert not (await filled.store.checked_coverage(filled.collection)).complete
    await reload(filled)
    try:
        report = await filled.fill()
    except errors.TableNotFoundError as error:
        assert "backline reconcile notes" in str(error)
    else:
        assert not report.complete
    result = await Reconciliation(filled.store, filled.collection).run()
    assert result.found[REPLACED] == 1
    assert result.sound, result
    await reload(filled)
    await check_embedded(filled)
    await filled.sql("update notes set body = 'again' where id = 1")
    await check_embedded(filled)
    await check_vector(filled, Change(""), 1, "again")


async def test_replacement_after_a_recorded_rename_is_named(filled: World) -> None:
    """A worker may look between the two renames."""
    await filled.sql("create table n2 (like notes including all)")
    await filled.sql("alter table notes rename to old")
    assert await filled.store.follow(filled.collection)
    assert await kinds(filled) == set()
    await filled.sql("alter table n2 rename to notes")
    await filled.sql("insert into notes (id, body) values (1, 'one')")
    assert await kinds(filled) == {"table"}
    await reconcile(filled)
    assert filled.collection.table == "public.notes"
    await check_embedded(filled)
    assert (await filled.store.coverage(filled.collection)).rows == 1


async def test_another_table_with_a_former_name_is_no_replacement(filled: World) -> None:
    await filled.sql("alter table notes rename to articles")
    assert await filled.store.follow(filled.collection)
    await filled.sql("create table notes (id bigint primary key, body text)")
    assert await kinds(filled) == set()
    await filled.sql("drop table notes; alter table articles rename to notes")
    await check_embedded(filled)


async def test_replacement_keeps_the_vectors_that_it_has(filled: World) -> None:
    await filled.sql(REPLACEMENTS["two renames"])
    await reconcile(filled)
    assert await filled.jobs() == {}
    assert (await filled.fill()).embedded == 0
    old = await filled.sql(
        "select tgname from pg_trigger where tgrelid = 'old'::regclass and not tgisinternal"
    )
    assert old == [], "the old table still writes to the change log"


@pytest.mark.parametrize("oid", ["1", "'other'::regclass"])
async def test_restored_table_is_adopted_by_its_triggers(filled: World, oid: str) -> None:
    """A restore gives tables other oids. The old oid may be that of another table."""
    await filled.sql("create table other (id bigint primary key, body text)")
    await filled.sql(f"update backline.collections set table_id = {oid} where name = 'notes'")
    await filled.sql("update notes set body = 'edited' where id = 1")
    assert await kinds(filled) == set()
    assert await filled.store.follow(filled.collection)
    await check_embedded(filled)
    [row] = await filled.sql(
        "select table_id = 'notes'::regclass as same from backline.collections where name = 'notes'"
    )
    assert row["same"]


# --- partitions and inheritance -------------------------------------------------------------------

PARTITIONED = """
create table notes (id bigint primary key, body text, views int not null default 0)
  partition by range (id);
create table notes_1 partition of notes for values from (1) to (100);
create table notes_2 partition of notes for values from (100) to (200);
"""


@pytest.fixture
async def partitioned(store: Store) -> AsyncIterator[World]:
    """A table with rows in two partitions, all of them embedded."""
    async with make_world(store, ddl=PARTITIONED) as world:
        await world.insert(*texts(10))
        await world.insert(*texts(10), first=101)
        await world.fill()
        assert await kinds(world) == set()
        yield world


ATTACH = (
    "create table notes_3 (like notes including all); "
    "insert into notes_3 (id, body) values (301, 'three'), (302, 'four'); "
    "alter table notes attach partition notes_3 for values from (300) to (400)"
)


@pytest.mark.parametrize(
    ("ddl", "rows"),
    [
        ("alter table notes detach partition notes_2", 10),
        ("drop table notes_2", 10),
        (ATTACH, 22),
        (ATTACH + "; alter table notes detach partition notes_1; drop table notes_1", 12),
    ],
)
async def test_partition_that_comes_or_goes_is_named(
    partitioned: World, ddl: str, rows: int
) -> None:
    await partitioned.sql(ddl)
    assert await kinds(partitioned) >= {"partitions"}
    await check_honest(partitioned)
    await partitioned.store.follow(partitioned.collection)
    assert await kinds(partitioned) >= UNSCANNED, "following hides the rows"
    await check_honest(partitioned)
    await reconcile(partitioned)
    await check_embedded(partitioned)
    assert (await partitioned.store.coverage(partitioned.collection)).rows == rows


@pytest.mark.parametrize("reconciled", [False, True])
async def test_detached_partition_is_not_followed(partitioned: World, *, reconciled: bool) -> None:
    await partitioned.sql("alter table notes detach partition notes_2")
    if reconciled:
        await reconcile(partitioned)
        assert await triggers(partitioned, "notes_2") == 0
    await partitioned.sql("insert into notes_2 (id, body) values (1, 'as in notes'), (150, 'new')")
    await partitioned.sql("update notes_2 set body = 'edited' where id = 101")
    await partitioned.sql("delete from notes_2 where id = 102")
    await partitioned.sql("truncate notes_2")
    assert await partitioned.sql("select from backline.changes") == []
    await reconcile(partitioned)
    assert await kinds(partitioned) == set()
    assert await triggers(partitioned, "notes") == 4
    coverage = await partitioned.store.coverage(partitioned.collection)
    assert (coverage.rows, coverage.embedded) == (10, 10)
    await check_embedded(partitioned)


async def triggers(world: World, table: str) -> int:
    """Return how many triggers a table has."""
    return len(await world.sql("select from pg_trigger where tgrelid = %s::regclass", table))


async def test_locked_table_that_was_detached_keeps_its_triggers_for_now(
    partitioned: World,
) -> None:
    await partitioned.sql("alter table notes detach partition notes_2")
    async with partitioned.another_user() as user:
        await user.execute("insert into notes_2 (id, body) values (150, 'not committed')")
        assert await partitioned.store.follow(partitioned.collection)
        assert await triggers(partitioned, "notes_2") == 4
    await partitioned.store.follow(partitioned.collection)
    assert await triggers(partitioned, "notes_2") == 0


async def test_partition_that_was_detached_is_attached_again(partitioned: World) -> None:
    await partitioned.sql("alter table notes detach partition notes_2")
    await partitioned.sql("insert into notes_2 (id, body) values (150, 'meanwhile')")
    await partitioned.sql(
        "alter table notes attach partition notes_2 for values from (100) to (200)"
    )
    await partitioned.sql("insert into notes_2 (id, body) values (151, 'direct')")
    await reconcile(partitioned)
    await check_embedded(partitioned)
    assert (await partitioned.store.coverage(partitioned.collection)).rows == 22


async def test_new_empty_partition_is_followed(partitioned: World) -> None:
    await partitioned.sql("create table notes_3 partition of notes for values from (300) to (400)")
    assert await kinds(partitioned) == {"partitions", "triggers"}
    assert await partitioned.store.follow(partitioned.collection)
    assert await kinds(partitioned) == set()
    await partitioned.sql("insert into notes_3 (id, body) values (301, 'direct')")
    await partitioned.sql("insert into notes (id, body) values (302, 'through the table')")
    await check_embedded(partitioned)
    assert (await partitioned.store.coverage(partitioned.collection)).rows == 22


async def test_partition_that_is_written_directly(partitioned: World) -> None:
    await partitioned.sql("insert into notes_1 (id, body) values (50, 'direct')")
    await partitioned.sql("update notes_1 set body = 'edited' where id = 1")
    await partitioned.sql("delete from notes_2 where id = 101")
    await check_embedded(partitioned)
    await check_vector(partitioned, Change(""), 1, "edited")


@pytest.mark.parametrize(
    "ddl",
    [
        "create table child () inherits (notes)",
        "create table parent (id bigint, body text); alter table notes inherit parent",
        "create table parent (like notes) partition by range (id); "
        "alter table parent attach partition notes for values from (1) to (1000)",
    ],
)
async def test_inheritance_is_named(filled: World, ddl: str) -> None:
    await filled.sql(ddl)
    await write(filled, Change(""))
    assert await kinds(filled) >= {"inheritance"}
    await check_honest(filled)
    for each in await filled.store.problems(filled.collection):
        if " no inherit " in each.remedy:
            await filled.sql(each.remedy.partition(": ")[2])
    assert ("inheritance" in await kinds(filled)) == ("attach" in ddl)


# --- replication ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "publish",
    [
        "create publication p for table notes",
        "create publication p for all tables",
        "create publication p for tables in schema public",
    ],
)
async def test_published_table_without_replica_identity_is_named(
    filled: World, publish: str
) -> None:
    await filled.sql("alter table notes replica identity nothing")
    await filled.sql(publish)
    await filled.sql("insert into notes (id, body) values (101, 'inserted')")
    [problem] = await filled.store.problems(filled.collection)
    assert problem.kind == "publication"
    await filled.sql(problem.remedy)
    assert await kinds(filled) == set()
    await check_embedded(filled)


# --- rows that no trigger saw ---------------------------------------------------------------------

UNSEEN = {
    "inserted": (["insert into notes values (101, 'new')"], "rows"),
    "deleted": (["delete from notes where id = 3"], "orphans"),
    "one deleted, one inserted": (
        ["delete from notes where id = 3", "insert into notes values (101, 'new')"], "orphans"
    ),
    "edited": (["update notes set body = 'edited' where id = 3"], "texts"),
    "all emptied": (["update notes set embedding = null"], "vectors"),
    "truncated": (["truncate notes"], "orphans"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
async def test_rows_that_no_trigger_saw_are_noticed(filled: World, name: str) -> None:
    statements, kind = UNSEEN[name]
    await filled.bypassing_triggers(*statements)
    assert kind in await kinds(filled)
    await check_honest(filled)
    await reconcile(filled)
    await check_embedded(filled)


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        (["insert into notes select i, 'new' from generate_series(101, 10000) i"], "rows"),
        (["truncate notes", "insert into notes values (1, 'text 1')"], "orphans"),
        (["update notes set body = 'edited'"], "texts"),
        (["update notes set embedding = null"], "vectors"),
    ],
)
async def test_sample_of_a_large_table_notices_that_most_rows_changed(
    filled: World, statements: list[str], kind: str
) -> None:
    assert await sampled_kinds(filled) == set()
    await filled.bypassing_triggers(*statements)
    assert await sampled_kinds(filled) >= {kind}


async def test_rows_that_are_counted_and_do_not_exist_are_noticed_in_a_large_table(
    filled: World,
) -> None:
    await reconcile(filled)
    assert await sampled_kinds(filled) == set()
    await filled.sql(
        "insert into backline.counter_deltas (collection_id, measure, amount) "
        "values (%s, 'rows', 2)", filled.collection.id
    )  # fmt: skip
    assert await sampled_kinds(filled) == {"rows"}
    await reconcile(filled)
    assert await sampled_kinds(filled) == set()
    await filled.sql("update backline.stamps set model_id = model_id + 1")
    await filled.store.recount(filled.collection.id)
    assert await sampled_kinds(filled) == set(), "the rows wait for another model's vectors"


async def sampled_kinds(world: World) -> set[str]:
    """Return the kinds of problems as for a table that is too large to compare every row."""
    rows = await world.sql("select kind from backline.problems(%s, 0)", world.collection.id)
    return {row["kind"] for row in rows}


async def test_edits_that_wait_are_no_problem(filled: World) -> None:
    await filled.sql("update notes set body = 'edited' where id < 5")
    await filled.sql("update notes set embedding = null where id = 6")
    await filled.sql("delete from notes where id = 7")
    await filled.sql("insert into notes values (101, 'new')")
    assert await kinds(filled) == set()
    await filled.enqueue()
    assert await kinds(filled) == set()
    await check_embedded(filled)


async def test_orphans_do_not_make_a_backfill_complete(filled: World) -> None:
    await filled.bypassing_triggers(
        "delete from notes where id = 3", "insert into notes values (101, 'new')"
    )
    report = await filled.fill()
    assert not report.complete
    assert {each.kind for each in report.coverage.problems} == {"orphans"}
    await reconcile(filled)
    await check_embedded(filled)


async def test_change_that_could_not_be_recorded_is_named_until_reconciled(filled: World) -> None:
    await filled.sql("select nextval('backline.missed')")
    assert await kinds(filled) == {"missed"}
    await check_honest(filled)
    await reconcile(filled)
    assert await kinds(filled) == set()
    await filled.sql("select nextval('backline.missed')")
    assert await kinds(filled) == {"missed"}


async def test_disabled_triggers_are_named(filled: World) -> None:
    await filled.sql("alter table notes disable trigger user")
    assert await kinds(filled) == {"triggers"}
    await reconcile(filled)
    assert await kinds(filled) == set()


async def test_locked_table_does_not_hold_up_the_status(filled: World) -> None:
    async with filled.another_user() as user:
        await user.execute("lock table notes")
        [problem] = await filled.store.problems(filled.collection)
        assert problem.kind == "rows"
        assert "lock" in problem.problem


async def test_sync_logs_each_problem_once(filled: World) -> None:
    await filled.sql("select nextval('backline.missed')")
    with structlog.testing.capture_logs() as logs:
        async with beside(watch_problems(filled.store, filled.collection, every=0.05)):
            await eventually(lambda: logs, "the problem to be logged")
            await filled.sql("alter table notes disable trigger user")
            await eventually(lambda: len(logs) == 2, "the second problem to be logged")
            await asyncio.sleep(0.5)
    assert [each["kind"] for each in logs] == ["missed", "triggers"]
    assert all(each["remedy"] == "Run: backline reconcile notes" for each in logs)


async def test_running_sync_follows_renames(filled: World) -> None:
    async with filled.syncing():
        await filled.sql("alter table notes rename body to content")
        await filled.sql("update notes set content = 'edited' where id = 1")
        await eventually(lambda: is_vector(filled, "edited"), "the edit to be embedded")
    await reload(filled)
    await check_embedded(filled)


async def is_vector(world: World, text: str) -> bool:
    stored = await world.stored_vector(1)
    return bool(np.allclose(stored, hash_vectors([text], 8)[0], atol=1e-4))


# --- the schema of Backline -----------------------------------------------------------------------

DAMAGES = {
    "log dropped": "drop table backline.changes cascade",
    "log renamed": "alter table backline.changes rename to elsewhere",
    "log without a column": "alter table backline.changes drop keys",
    "log and sequence dropped": "drop table backline.changes; drop sequence backline.missed",
    "tables dropped": "drop table backline.stamps, backline.jobs, backline.counter_deltas cascade",
    "collections dropped": "drop table backline.collections cascade",
    "trigger function dropped": "drop function backline.c{id}_updated cascade",
    "schema renamed": "alter schema backline rename to elsewhere",
    "schema dropped": "drop schema backline cascade",
    "function owned by a role without rights": "create role powerless; "
    "grant usage, create on schema backline to powerless; "
    "alter function backline.c{id}_inserted owner to powerless; "
    "alter function backline.c{id}_updated owner to powerless; "
    "alter function backline.c{id}_deleted owner to powerless",
    "pgvector dropped": "drop extension vector cascade",
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_statements_of_the_host_go_on_without_parts_of_the_schema(
    filled: World, name: str
) -> None:
    await filled.sql(DAMAGES[name].format(id=filled.collection.id))
    try:
        await write(filled, Change(""))
    finally:
        await drop_role(filled)
    rows = await filled.sql("select id, body from notes where id in (1, 2, 101) order by id")
    assert [(row["id"], row["body"]) for row in rows] == [(1, "1"), (101, "inserted")]


async def drop_role(world: World) -> None:
    """Drop the role of DAMAGES, which all databases share."""
    roles: list[Any] = await world.sql("select from pg_roles where rolname = 'powerless'")
    if roles:
        await world.sql("drop owned by powerless cascade")
        await world.sql("drop role powerless")
