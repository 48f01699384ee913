"""A backfill of a large table builds the HNSW index and reports an index that slows it down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from tests.integration.harness import (
    World,
    eventually,
    execute,
    make_world,
    running,
    waits_for_lock,
)
from tests.integration.proxy import fault_proxy

from backline.backfill import Backfill, BackfillReport
from backline.embedders.hash import HashEmbedder
from backline.embedders.limiter import Limiter
from backline.postgres.store import Store, open_store
from backline.worker.options import WorkerOptions

ROWS = 10_000  # search.indexes.ROWS_WORTH_AN_INDEX
BULK = WorkerOptions(batch_size=500, ahead=2000, give_up_after=20)


@pytest.fixture
async def large(store: Store) -> AsyncIterator[World]:
    """A table that is large enough for an index and has no vectors."""
    async with make_world(store, embedder=HashEmbedder(8)) as world:
        await world.sql(
            f"insert into notes select i, 'text ' || i from generate_series(1, {ROWS}) i"
        )
        yield world


def backfill(world: World, *, build_index: bool = True, **options: Any) -> Backfill:
    return Backfill(
        world.store,
        world.collection,
        world.embedder,
        Limiter(),
        replace(BULK, **options),
        build_index=build_index,
    )


async def fill(world: World, *, build_index: bool = True, **options: Any) -> BackfillReport:
    return await backfill(world, build_index=build_index, **options).run()


async def indexes(world: World) -> dict[str, bool]:
    """Return the HNSW indexes of the table by name, and whether each is valid."""
    rows = await world.sql(
        "select k.relname as name, i.indisvalid as valid from pg_index i "
        "join pg_class k on k.oid = i.indexrelid join pg_am a on a.oid = k.relam "
        "where i.indrelid = 'notes'::regclass and a.amname = 'hnsw'"
    )
    return {row["name"]: row["valid"] for row in rows}


async def test_large_table_is_indexed_after_the_fill(large: World) -> None:
    report = await fill(large)
    assert (report.embedded, report.index.state) == (ROWS, "built")
    assert report.index.seconds > 0
    assert await indexes(large) == {"notes_embedding_hnsw": True}
    again = await fill(large)
    assert (again.index.state, again.embedded, again.notices) == ("in place", 0, [])


async def test_index_can_be_declined_and_built_by_a_later_run(large: World) -> None:
    report = await fill(large, build_index=False)
    assert (report.index.state, report.index.why) == ("left out", "not requested")
    assert await indexes(large) == {}
    assert (await fill(large)).index.state == "built", "a later run did not build it"


async def test_run_with_a_row_limit_builds_no_index(large: World) -> None:
    report = await fill(large, max_rows=100)
    assert report.index.state == "left out"
    assert await indexes(large) == {}


async def test_small_table_is_not_indexed(large: World) -> None:
    await large.sql("delete from notes where id > 100")
    assert (await fill(large)).index.state == "not needed"


async def test_existing_index_is_reported_before_a_bulk_fill(large: World) -> None:
    await large.sql("create index mine on notes using hnsw (embedding extensions.vector_l2_ops)")
    notices: list[str] = []
    report = await backfill(large, build_index=False).run(notice=notices.append)
    assert report.notices == notices
    [notice] = notices
    assert f"About {ROWS:,} of {ROWS:,} rows" in notice
    assert "drop index public.mine" in notice


async def test_existing_index_is_not_reported_when_few_rows_are_left(large: World) -> None:
    await fill(large)
    await large.sql("update notes set body = 'edited ' || id where id <= 2000")
    assert (await fill(large)).notices == []


async def test_locked_table_prevents_the_index_but_not_the_fill(
    large: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backline.search.indexes.LOCK_TIMEOUT", "300ms")
    await fill(large, build_index=False)
    await large.sql("update notes set body = 'edited ' || id where id <= 10")
    async with large.another_user() as reader:
        await execute(reader, "lock table notes in row exclusive mode")
        async with running(fill(large)) as filling:
            waits = partial(waits_for_lock, large.store, "create index%")
            await eventually(waits, "the index to wait", every=0.005)
            [run, *_] = await large.store.runs(large.collection)
            assert run.state == "completed", "the run was not finished before the index"
            ended = run.finished_at
            report = await filling
    [run, *_] = await large.store.runs(large.collection)
    assert (run.state, run.finished_at, run.seconds) == ("completed", ended, report.seconds)
    assert (report.state, report.embedded, report.complete) == ("completed", 10, True)
    assert report.index.state == "left out"
    assert "backline index notes" in report.index.why
    assert True not in (await indexes(large)).values()
    assert (await fill(large)).index.state == "built", "the invalid index was not replaced"
    assert await indexes(large) == {"notes_embedding_hnsw": True}


async def test_statement_timeout_behind_a_pooler_prevents_only_the_index(
    large: World, database: str
) -> None:
    """A pooler drops session settings, so the database's default limits the build."""
    await fill(large, build_index=False)
    async with fault_proxy(database, port=6543) as pooler, open_store(pooler.url) as large.store:
        await large.set_database_default("statement_timeout = '150ms'")
        report = await fill(large)
        assert (report.state, report.complete) == ("completed", True)
        assert report.index.state == "left out"
        assert "5432" in report.index.why
    assert await indexes(large) == {}


async def test_recount_that_times_out_leaves_the_counters_in_the_report(
    large: World, database: str
) -> None:
    """The recount is made slow, as it is on a very large table."""
    await large.sql(
        "insert into backline.counter_deltas values (%s, 'pending', 0, 1)", large.collection.id
    )
    await large.sql(
        "create or replace function backline.recount(p_collection int, p_correct boolean "
        "default true) returns jsonb language sql as $$ select '{}'::jsonb from pg_sleep(10) $$"
    )
    await large.set_database_default("statement_timeout = '1s'")
    async with open_store(database) as large.store:
        report = await fill(large, build_index=False)
    # The replaced function is a problem of the schema, so the report is not complete.
    assert (report.state, report.coverage.embedded) == ("completed", ROWS)
    assert any("statement_timeout" in notice for notice in report.notices)
