"""Reconcile finds, names and repairs changes made without triggers, at the least cost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from tests.integration.harness import World, execute, make_world, overpaid, running, texts
from tests.provider import StandInProvider

from backline import search
from backline.postgres.store import Store, open_store
from backline.reconcile import COUNTERS, KEYWORDS, TRIGGER, Reconciled, Reconciliation

ROWS = 30


@pytest.fixture
async def filled(world: World) -> World:
    """A table of 30 rows, all of them embedded."""
    await world.insert(*texts(ROWS))
    await world.fill()
    return world


async def reconcile_after_dry_run(world: World) -> Reconciled:
    """Reconcile after a dry run, which must find the same and change nothing."""
    before = await snapshot(world)
    preview = await Reconciliation(world.store, world.collection, dry_run=True).run()
    assert await snapshot(world) == before
    result = await Reconciliation(world.store, world.collection).run()
    assert preview.found.keys() - {COUNTERS} == result.found.keys() - {COUNTERS}
    assert {kind: preview.found[kind] for kind in preview.found.keys() - {COUNTERS}} == {
        kind: result.found[kind] for kind in result.found.keys() - {COUNTERS}
    }
    assert preview.sound is not bool(preview.found)
    assert result.sound
    return result


async def snapshot(world: World) -> list[Any]:
    """Return the table and every record of the collection."""
    tables = ("jobs", "stamps", "failures", "counter_deltas", "documents", "keyword_indexes")
    return [
        await world.sql(f"select t::text from backline.{table} t order by 1") for table in tables
    ] + [await world.sql("select id, body, embedding::text from notes order by id")]


async def check_repaired(world: World) -> None:
    """Assert that a backfill completes the table and a second reconciliation finds nothing."""
    await world.fill()
    await world.check_complete()
    again = await Reconciliation(world.store, world.collection).run()
    assert (again.found, again.sound) == ({}, True)


async def test_reconcile_of_a_consistent_table_changes_nothing(
    filled: World, provider: StandInProvider
) -> None:
    calls = len(provider.calls)
    result = await reconcile_after_dry_run(filled)
    assert (result.rows, result.found, result.enqueued, result.removed) == (ROWS, {}, 0, 0)
    assert await filled.jobs() == {}
    assert len(provider.calls) == calls


CHANGES_BY_KIND = {
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


@pytest.mark.parametrize("kind", CHANGES_BY_KIND)
async def test_each_kind_of_drift_is_named_and_repaired(
    filled: World, provider: StandInProvider, kind: str
) -> None:
    paid = provider.texts_embedded.total()
    await filled.bypassing_triggers(*CHANGES_BY_KIND[kind])
    result = await reconcile_after_dry_run(filled)
    assert result.found.pop(kind) == 3
    assert len(result.examples[kind]) == 3
    assert result.found.keys() <= {COUNTERS, KEYWORDS}, "the drift was given another name as well"
    await check_repaired(filled)
    new = 3 if "enqueued" in kind or "unnoticed" in kind or "edit" in kind else 0
    assert provider.texts_embedded.total() == paid + new, "a text was embedded again"


@pytest.mark.parametrize(
    "change",
    [
        "embedding = (embedding::real[])[1:7] || ((embedding::real[])[8] + 0.05)",
        "embedding = ((embedding::real[])[2:8] || (embedding::real[])[1:1])",
        "embedding = '[1,0,0,0,0,0,0,0]'",
        "embedding = '[0,0,0,0,0,0,0,0]'",
    ],
)
async def test_vector_edited_by_a_user_is_restored_from_the_cache(
    filled: World, provider: StandInProvider, change: str
) -> None:
    """The triggers are active but ignore the edit, as the text does not change."""
    calls = len(provider.calls)
    await filled.sql(f"update notes set {change} where id in (4, 17)")
    assert await filled.jobs() == {}
    result = await reconcile_after_dry_run(filled)
    assert result.found == {"vector that Backline did not write": 2}
    assert result.examples["vector that Backline did not write"] == ["4", "17"]
    await check_repaired(filled)
    assert len(provider.calls) == calls


async def test_vector_of_wrong_dimensions_is_replaced(
    store: Store, provider: StandInProvider
) -> None:
    ddl = "create table notes (id bigint primary key, body text, embedding extensions.vector)"
    async with make_world(store, provider, ddl=ddl) as world:
        await world.insert("one", "two")
        await world.fill()
        await world.sql("update notes set embedding = '[1,0]' where id = 2")
        result = await reconcile_after_dry_run(world)
        assert result.found == {"vector of wrong dimensions": 1}
        await check_repaired(world)


async def test_rounding_to_halfvec_is_not_drift(store: Store, provider: StandInProvider) -> None:
    async with make_world(store, provider, column_type="halfvec") as world:
        await world.insert(*texts(50))
        await world.fill()
        assert (await reconcile_after_dry_run(world)).found == {}


async def test_dead_letter_of_a_text_changed_without_triggers_is_removed(
    filled: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await filled.sql("update notes set body = 'POISON ' || id where id <= 2")
    await filled.fill()
    assert sorted(await filled.failures()) == ["1", "2"]
    await filled.bypassing_triggers("update notes set body = 'corrected' where id = 1")
    result = await reconcile_after_dry_run(filled)
    assert result.found == {"dead letter of another text": 1, KEYWORDS: 1}
    assert sorted(await filled.failures()) == ["2"]
    await filled.fill()
    await filled.check_complete(dead=["2"])


@pytest.mark.parametrize("how", ["disable trigger user", "dropped"])
async def test_missing_and_disabled_triggers_are_created_again(filled: World, how: str) -> None:
    if how == "dropped":
        for event in ("insert", "update", "delete", "truncate"):
            await filled.sql(f"drop trigger backline_c{filled.collection.id}_{event} on notes")
    else:
        await filled.sql(f"alter table notes {how}")
    await filled.sql("update notes set body = 'unnoticed' where id = 1")
    result = await reconcile_after_dry_run(filled)
    assert result.found[TRIGGER] == 4
    assert result.found["text that changed unnoticed"] == 1
    await filled.sql("update notes set body = 'noticed' where id = 2")
    assert sorted(await filled.jobs()) == ["1", "2"]
    await check_repaired(filled)


async def test_triggers_that_the_role_may_not_create_are_reported(
    filled: World, database: str
) -> None:
    """The role may work on the queue but does not own the table."""
    await filled.sql("alter table notes disable trigger user")
    await filled.sql("update notes set body = 'unnoticed' where id = 1")
    await filled.sql("create role queue_worker login bypassrls in role service_role")
    await filled.sql("grant select, update on notes to queue_worker")
    try:
        async with open_store(make_conninfo(database, user="queue_worker")) as limited:
            result = await Reconciliation(limited, filled.collection).run()
    finally:
        await filled.sql("drop owned by queue_worker")
        await filled.sql("drop role queue_worker")
    assert not result.sound
    assert "Use the table's owner" in result.unrepaired[TRIGGER]
    assert list(await filled.jobs()) == ["1"], "the row was not enqueued"


async def test_wrong_counters_are_corrected(filled: World) -> None:
    await filled.sql(
        "insert into backline.counter_deltas values (%s, 'rows', 0, 5)", filled.collection.id
    )
    await filled.sql(
        "insert into backline.counter_deltas values (%s, 'pending', 0, -7)", filled.collection.id
    )
    result = await reconcile_after_dry_run(filled)
    assert result.found == {COUNTERS: 2}
    assert sorted(result.examples[COUNTERS]) == ["pending +7", "rows -5"]
    await check_repaired(filled)


async def test_stale_keyword_index_is_rebuilt(filled: World) -> None:
    await filled.bypassing_triggers("update notes set body = 'zebra' where id = 1")
    query = search.Query("zebra", mode="keyword")
    assert await search.search(filled.store, filled.collection, None, query) == []
    await reconcile_after_dry_run(filled)
    [hit] = await search.search(filled.store, filled.collection, None, query)
    assert hit.key == "1"


async def test_repair_of_a_restored_table_embeds_no_text_twice(
    filled: World, provider: StandInProvider
) -> None:
    """The dump has older rows and no vectors."""
    await filled.bypassing_triggers(
        "truncate notes",
        "insert into notes select i, 'text ' || i from generate_series(11, 40) i",
    )
    result = await reconcile_after_dry_run(filled)
    assert result.found["vector that is gone"] == 20
    assert result.found["row that was never enqueued"] == 10
    assert result.found["stamp of a row that does not exist"] == 10
    await check_repaired(filled)
    assert overpaid(provider) == {}


async def test_repair_of_missing_stamps_and_jobs_embeds_no_text_twice(
    filled: World, provider: StandInProvider
) -> None:
    await filled.sql("update notes set body = 'edited' where id = 5")
    await filled.apply_changes()
    await filled.sql("delete from backline.jobs")
    await filled.sql("delete from backline.stamps where key::int > 20")
    result = await reconcile_after_dry_run(filled)
    assert result.found == {"edit without a job": 1, "vector without a stamp": 10, KEYWORDS: 1}
    await check_repaired(filled)
    assert overpaid(provider) == {}


async def test_locked_row_is_repaired_after_its_edit_commits(filled: World) -> None:
    await filled.bypassing_triggers("update notes set embedding = null where id <= 20")
    async with filled.another_user() as slow:
        await execute(slow, "update notes set body = 'not committed' where id = 7")
        async with running(Reconciliation(filled.store, filled.collection).run()) as reconciling:
            await asyncio.sleep(0.5)
            await slow.commit()
            result = await reconciling
    assert result.sound
    await check_repaired(filled)


async def test_row_locked_for_good_is_reported_and_delays_no_other(
    filled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backline.reconcile.AGAIN_SECONDS", (0.05,))
    await filled.bypassing_triggers("update notes set embedding = null where id <= 20")
    async with filled.another_user() as slow:
        await execute(slow, "select from backline.stamps where key = '7' for update")
        result = await Reconciliation(filled.store, filled.collection).run()
        assert not result.sound
        assert list(result.unrepaired) == ["row 7"]
        assert result.found["vector that is gone"] == 20
        assert len(await filled.jobs()) == 19
    await check_repaired(filled)


async def test_stopped_reconciliation_continues_after_its_last_key(
    filled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backline.reconcile.PAGE", 10)
    await filled.bypassing_triggers("update notes set embedding = null")
    work = Reconciliation(filled.store, filled.collection, on_page=lambda _rows: work.stop())
    result = await work.run()
    assert (result.stopped, result.sound, result.last_key, result.rows) == (True, False, "10", 10)
    assert len(await filled.jobs()) == 10
    result = await Reconciliation(filled.store, filled.collection).run(result.last_key)
    assert (result.rows, result.enqueued, result.sound, result.last_key) == (20, 20, True, None)
    await check_repaired(filled)


async def test_concurrent_workers_and_edits_cause_no_false_drift(
    filled: World, provider: StandInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All edits go through the triggers, so each reconciliation must find nothing."""
    monkeypatch.setattr("backline.reconcile.PAGE", 7)
    provider.behave(delay_s=0.01)
    drift: list[dict[str, int]] = []

    async def reconcile_repeatedly() -> None:
        for _ in range(20):
            result = await Reconciliation(filled.store, filled.collection).run()
            drift.append(result.found)
            assert result.sound

    async with filled.syncing(), running(reconcile_repeatedly()) as reconciling:
        for n in range(60):
            await filled.sql("update notes set body = %s where id = %s", f"edited {n}", n % 25 + 1)
            await filled.sql("delete from notes where id = %s", n % 5 + 26)
            await filled.insert(f"back {n}", first=n % 5 + 26)
            await asyncio.sleep(0.01)
        await reconciling
        await filled.wait_until_idle()
    assert all(each == {} for each in drift), drift
    await filled.check_complete()
