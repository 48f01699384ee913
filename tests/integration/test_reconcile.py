"""What no trigger saw is found, named, and repaired for no more than it takes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from tests.integration.harness import World, execute, make_world, overpaid, running
from tests.provider import StandInProvider

from backline import search
from backline.postgres.store import Store, open_store
from backline.reconcile import KEYWORDS, LEDGER, TRIGGER, Reconciled, Reconciliation, reconcile

ROWS = 30


@pytest.fixture
async def filled(world: World) -> World:
    """A table of 30 rows, all of them embedded."""
    await world.insert(*(f"text {n}" for n in range(1, ROWS + 1)))
    await world.fill()
    return world


async def unnoticed(filled: World, *statements: str) -> None:
    """What a load, a restore or a replica does: no trigger fires."""
    await filled.sql("set session_replication_role = replica")
    for statement in statements:
        await filled.sql(statement)
    await filled.sql("set session_replication_role = origin")


async def reconciled(filled: World) -> Reconciled:
    """Reconcile after a dry run, which must say the same and change nothing."""
    before = await fingerprint(filled)
    dry = await reconcile(filled.store, filled.collection, dry_run=True)
    assert await fingerprint(filled) == before
    done = await reconcile(filled.store, filled.collection)
    assert dry.found.keys() - {LEDGER} == done.found.keys() - {LEDGER}
    assert {kind: dry.found[kind] for kind in dry.found.keys() - {LEDGER}} == {
        kind: done.found[kind] for kind in done.found.keys() - {LEDGER}
    }
    assert dry.sound is not bool(dry.found)
    assert done.sound
    return done


async def fingerprint(filled: World) -> list[Any]:
    """Everything that Backline knows of the collection."""
    tables = ("jobs", "stamps", "failures", "counter_deltas", "documents", "keyword_indexes")
    return [
        await filled.sql(f"select t::text from backline.{table} t order by 1") for table in tables
    ] + [await filled.sql("select id, body, embedding::text from notes order by id")]


async def mended(filled: World) -> None:
    """After a backfill all is well, and a second look finds nothing."""
    await filled.fill()
    await filled.check_complete()
    again = await reconcile(filled.store, filled.collection)
    assert (again.found, again.sound) == ({}, True)


async def test_where_all_is_well_nothing_is_found(filled: World, provider: StandInProvider) -> None:
    calls = len(provider.calls)
    done = await reconciled(filled)
    assert (done.rows, done.found, done.enqueued, done.removed) == (ROWS, {}, 0, 0)
    assert await filled.jobs() == {}
    assert len(provider.calls) == calls


CHANGES = {
    "row that was never enqueued": [
        "insert into notes select i, 'new ' || i from generate_series(101, 103) i"
    ],
    "text that changed unnoticed": ["update notes set body = 'edited ' || id where id <= 3"],
    "stamp of a row that does not exist": ["delete from notes where id <= 3"],
    "vector that is gone": ["update notes set embedding = null where id <= 3"],
    "vector that Backline did not write": [
        "update notes n set embedding = o.embedding from notes o "
        "where n.id <= 3 and o.id = n.id + 3"
    ],
    "vector without a stamp": ["delete from backline.stamps where key::int <= 3"],
    "edit without a job": [
        "update notes set body = 'edited ' || id where id <= 3",
        "update backline.stamps set stale = true where key::int <= 3",
    ],
    "vector of a row without text": [
        "update notes set body = '' where id <= 3",
        "update backline.stamps set blank = true, fingerprint = null, content_hash = sha256('') "
        "where key::int <= 3",
    ],
    "job of a row that does not exist": [
        "insert into backline.jobs (collection_id, key, priority) "
        "select max(id), k, 1 from backline.collections, unnest(array['901', '902', '903']) k "
        "group by k"
    ],
    "dead letter of a row that does not exist": [
        "insert into backline.failures "
        "(collection_id, key, content_hash, model_id, attempts, kind, error) "
        "select max(id), k, '', 1, 1, 'rejected', 'no' from backline.collections, "
        "unnest(array['901', '902', '903']) k group by k"
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
async def test_each_kind_of_drift(filled: World, provider: StandInProvider, kind: str) -> None:
    paid = provider.texts_embedded.total()
    await unnoticed(filled, *CHANGES[kind])
    done = await reconciled(filled)
    assert done.found.pop(kind) == 3
    assert len(done.examples[kind]) == 3
    assert done.found.keys() <= {LEDGER, KEYWORDS}, "it is named by what it is, and only so"
    await mended(filled)
    new = 3 if "enqueued" in kind or "unnoticed" in kind or "edit" in kind else 0
    assert provider.texts_embedded.total() == paid + new, "what was paid for is not paid for again"


@pytest.mark.parametrize(
    "change",
    [
        "embedding = (embedding::real[])[1:7] || ((embedding::real[])[8] + 0.05)",
        "embedding = ((embedding::real[])[2:8] || (embedding::real[])[1:1])",
        "embedding = '[1,0,0,0,0,0,0,0]'",
        "embedding = '[0,0,0,0,0,0,0,0]'",
    ],
)
async def test_a_vector_edited_by_hand_is_found_and_made_again_for_nothing(
    filled: World, provider: StandInProvider, change: str
) -> None:
    """With every trigger in force: the text did not change, so none of them minds."""
    calls = len(provider.calls)
    await filled.sql(f"update notes set {change} where id in (4, 17)")
    assert await filled.jobs() == {}
    done = await reconciled(filled)
    assert done.found == {"vector that Backline did not write": 2}
    assert done.examples["vector that Backline did not write"] == ["4", "17"]
    await mended(filled)
    assert len(provider.calls) == calls


async def test_vectors_of_other_dimensions(store: Store, provider: StandInProvider) -> None:
    ddl = "create table notes (id bigint primary key, body text, embedding extensions.vector)"
    async with make_world(store, provider, ddl=ddl) as filled:
        await filled.insert("one", "two")
        await filled.fill()
        await filled.sql("update notes set embedding = '[1,0]' where id = 2")
        done = await reconciled(filled)
        assert done.found == {"vector of wrong dimensions": 1}
        await mended(filled)


async def test_a_halfvec_is_the_vector_that_was_written(
    store: Store, provider: StandInProvider
) -> None:
    """Rounded to 16 bits, and no drift."""
    async with make_world(store, provider, column_type="halfvec") as filled:
        await filled.insert(*(f"text {n}" for n in range(50)))
        await filled.fill()
        assert (await reconciled(filled)).found == {}


async def test_a_dead_letter_of_a_text_that_changed_unnoticed(
    filled: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await filled.sql("update notes set body = 'POISON ' || id where id <= 2")
    await filled.fill()
    assert sorted(await filled.failures()) == ["1", "2"]
    await unnoticed(filled, "update notes set body = 'mended' where id = 1")
    done = await reconciled(filled)
    assert done.found == {"dead letter of another text": 1, KEYWORDS: 1}
    assert sorted(await filled.failures()) == ["2"]
    await filled.fill()
    await filled.check_complete(dead=["2"])


@pytest.mark.parametrize("how", ["disable trigger user", "dropped"])
async def test_triggers_that_do_not_fire_are_made_again(filled: World, how: str) -> None:
    if how == "dropped":
        for event in ("insert", "update", "delete", "truncate"):
            await filled.sql(f"drop trigger backline_c{filled.collection.id}_{event} on notes")
    else:
        await filled.sql(f"alter table notes {how}")
    await filled.sql("update notes set body = 'unnoticed' where id = 1")
    done = await reconciled(filled)
    assert done.found[TRIGGER] == (4 if how == "dropped" else 8)
    assert done.found["text that changed unnoticed"] == 1
    await filled.sql("update notes set body = 'noticed' where id = 2")
    assert sorted(await filled.jobs()) == ["1", "2"]
    await mended(filled)


async def test_triggers_that_may_not_be_made_are_reported(filled: World, database: str) -> None:
    """A role that works on the queue, and owns no table."""
    await filled.sql("alter table notes disable trigger user")
    await filled.sql("update notes set body = 'unnoticed' where id = 1")
    await filled.sql("create role queue_worker login bypassrls in role service_role")
    await filled.sql("grant select, update on notes to queue_worker")
    try:
        async with open_store(make_conninfo(database, user="queue_worker")) as limited:
            done = await reconcile(limited, filled.collection)
    finally:
        await filled.sql("drop owned by queue_worker")
        await filled.sql("drop role queue_worker")
    assert not done.sound
    assert "Use a role that owns the table" in done.unrepaired[TRIGGER]
    assert list(await filled.jobs()) == ["1"], "what it can do, it does"


async def test_counts_that_are_off(filled: World) -> None:
    await filled.sql(
        "insert into backline.counter_deltas values (%s, 'rows', 0, 5)", filled.collection.id
    )
    await filled.sql(
        "insert into backline.counter_deltas values (%s, 'pending', 0, -7)", filled.collection.id
    )
    done = await reconciled(filled)
    assert done.found == {LEDGER: 2}
    assert sorted(done.examples[LEDGER]) == ["pending +7", "rows -5"]
    await mended(filled)


async def test_keywords_are_indexed_anew(filled: World) -> None:
    await unnoticed(filled, "update notes set body = 'zebra' where id = 1")
    query = search.Query("zebra", mode="keyword")
    assert await search.search(filled.store, filled.collection, None, query) == []
    await reconciled(filled)
    [hit] = await search.search(filled.store, filled.collection, None, query)
    assert hit.key == "1"


async def test_a_table_restored_over_the_one_that_was_known(
    filled: World, provider: StandInProvider
) -> None:
    """Truncated and loaded from a dump of last month, without vectors, while nobody looked."""
    await unnoticed(
        filled,
        "truncate notes",
        "insert into notes select i, 'text ' || i from generate_series(11, 40) i",
    )
    done = await reconciled(filled)
    assert done.found["vector that is gone"] == 20
    assert done.found["row that was never enqueued"] == 10
    assert done.found["stamp of a row that does not exist"] == 10
    await mended(filled)
    assert overpaid(provider) == {}


async def test_stamps_and_jobs_that_a_restore_lost(
    filled: World, provider: StandInProvider
) -> None:
    await filled.sql("update notes set body = 'edited' where id = 5")
    await filled.sql("delete from backline.jobs")
    await filled.sql("delete from backline.stamps where key::int > 20")
    done = await reconciled(filled)
    assert done.found == {"edit without a job": 1, "vector without a stamp": 10, KEYWORDS: 1}
    await mended(filled)
    assert overpaid(provider) == {}


async def test_a_row_that_somebody_edits_is_repaired_when_they_are_done(filled: World) -> None:
    await unnoticed(filled, "update notes set embedding = null where id <= 20")
    async with filled.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 7")
        async with running(reconcile(filled.store, filled.collection)) as reconciling:
            await asyncio.sleep(0.5)
            await slow.commit()
            done = await reconciling
    assert done.sound
    await mended(filled)


async def test_a_row_that_is_held_for_ever_is_named_and_holds_up_no_other(
    filled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backline.reconcile.AGAIN_SECONDS", (0.05,))
    await unnoticed(filled, "update notes set embedding = null where id <= 20")
    async with filled.another_user() as slow:
        await execute(slow, "update notes set body = 'in the making' where id = 7")
        done = await reconcile(filled.store, filled.collection)
        assert not done.sound
        assert list(done.unrepaired) == ["row 7"]
        assert done.found["vector that is gone"] == 20
        assert len(await filled.jobs()) == 19
    await mended(filled)


async def test_a_reconciliation_that_was_stopped_goes_on_where_it_was(
    filled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backline.reconcile.PAGE", 10)
    await unnoticed(filled, "update notes set embedding = null")
    work = Reconciliation(filled.store, filled.collection, on_page=lambda _rows: work.stop())
    done = await work.run()
    assert (done.stopped, done.sound, done.last_key, done.rows) == (True, False, "10", 10)
    assert len(await filled.jobs()) == 10
    done = await reconcile(filled.store, filled.collection, after=done.last_key)
    assert (done.rows, done.enqueued, done.sound, done.last_key) == (20, 20, True, None)
    await mended(filled)


async def test_beside_workers_and_users_it_finds_nothing_that_is_not_there(
    filled: World, provider: StandInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is in motion, and all of it noticed."""
    monkeypatch.setattr("backline.reconcile.PAGE", 7)
    provider.behave(delay_s=0.01)
    found: list[dict[str, int]] = []

    async def look() -> None:
        for _ in range(20):
            done = await reconcile(filled.store, filled.collection)
            found.append(done.found)
            assert done.sound

    async with filled.syncing(), running(look()) as looking:
        for n in range(60):
            await filled.sql("update notes set body = %s where id = %s", f"edited {n}", n % 25 + 1)
            await filled.sql("delete from notes where id = %s", n % 5 + 26)
            await filled.insert(f"back {n}", first=n % 5 + 26)
            await asyncio.sleep(0.01)
        await looking
        await filled.wait_until_idle()
    assert all(each == {} for each in found), found
    await filled.check_complete()
