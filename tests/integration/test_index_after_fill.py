"""A big table that was filled gets its index, nobody waits for it, and one in the way is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

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

ROWS = 10_000  # ROWS_WORTH_AN_INDEX
BULK = WorkerOptions(batch_size=500, ahead=2000, give_up_after=20)


@pytest.fixture
async def unfilled(store: Store) -> AsyncIterator[World]:
    """A table that is worth an index, and has no vectors."""
    async with make_world(store, embedder=HashEmbedder(8)) as made:
        await made.sql(
            f"insert into notes select i, 'text ' || i from generate_series(1, {ROWS}) i"
        )
        yield made


async def fill(unfilled: World, *, build_index: bool = True, **options: int) -> BackfillReport:
    chosen = WorkerOptions(batch_size=500, ahead=2000, give_up_after=20, **options)  # type: ignore[arg-type]
    work = Backfill(
        unfilled.store,
        unfilled.collection,
        unfilled.embedder,
        Limiter(),
        chosen,
        build_index=build_index,
    )
    return await work.run()


async def indexes(unfilled: World) -> dict[str, bool]:
    """Whether each HNSW index of the table is valid."""
    rows = await unfilled.sql(
        "select k.relname as name, i.indisvalid as valid from pg_index i "
        "join pg_class k on k.oid = i.indexrelid join pg_am a on a.oid = k.relam "
        "where i.indrelid = 'notes'::regclass and a.amname = 'hnsw'"
    )
    return {row["name"]: row["valid"] for row in rows}


async def test_a_big_table_gets_its_index_after_the_fill(unfilled: World) -> None:
    report = await fill(unfilled)
    assert (report.embedded, report.index.state) == (ROWS, "built")
    assert report.index.seconds > 0
    assert await indexes(unfilled) == {"notes_embedding_hnsw": True}
    again = await fill(unfilled)
    assert (again.index.state, again.embedded, again.notices) == ("in place", 0, [])


async def test_an_index_that_is_not_wanted(unfilled: World) -> None:
    report = await fill(unfilled, build_index=False)
    assert (report.index.state, report.index.why) == ("left out", "not wanted")
    assert await indexes(unfilled) == {}
    assert (await fill(unfilled)).index.state == "built", "a later run makes up for it"


async def test_a_trial_run_builds_no_index(unfilled: World) -> None:
    report = await fill(unfilled, max_rows=100)
    assert report.index.state == "left out"
    assert await indexes(unfilled) == {}


async def test_a_small_table_needs_none(unfilled: World) -> None:
    await unfilled.sql("delete from notes where id > 100")
    assert (await fill(unfilled)).index.state == "not needed"


async def test_an_index_that_is_there_before_a_bulk_fill_is_pointed_out(unfilled: World) -> None:
    await unfilled.sql("create index mine on notes using hnsw (embedding extensions.vector_l2_ops)")
    said: list[str] = []
    work = Backfill(
        unfilled.store, unfilled.collection, unfilled.embedder, Limiter(), BULK, build_index=False
    )
    report = await work.run(notice=said.append)
    assert report.notices == said
    [notice] = said
    assert f"About {ROWS:,} of {ROWS:,} rows" in notice
    assert "drop index public.mine" in notice


async def test_an_index_is_no_matter_where_little_is_left(unfilled: World) -> None:
    await fill(unfilled)
    await unfilled.sql("update notes set body = 'edited ' || id where id <= 2000")
    assert (await fill(unfilled)).notices == []


async def test_a_table_that_somebody_holds_costs_the_index_and_not_the_fill(
    unfilled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backline.search.indexes.LOCK_TIMEOUT", "300ms")
    await fill(unfilled, build_index=False)
    await unfilled.sql("update notes set body = 'edited ' || id where id <= 10")
    async with unfilled.another_user() as reader:
        await execute(reader, "lock table notes in row exclusive mode")
        async with running(fill(unfilled)) as filling:
            waits = partial(waits_for_lock, unfilled.store, "create index%")
            await eventually(waits, "the index to wait", every=0.005)
            [run, *_] = await unfilled.store.runs(unfilled.collection)
            assert run.state == "completed", "the table is filled, and no worker lives"
            ended = run.finished_at
            report = await filling
    [run, *_] = await unfilled.store.runs(unfilled.collection)
    assert (run.state, run.finished_at, run.seconds) == ("completed", ended, report.seconds)
    assert (report.state, report.embedded, report.complete) == ("completed", 10, True)
    assert report.index.state == "left out"
    assert "backline index notes" in report.index.why
    assert True not in (await indexes(unfilled)).values()
    assert (await fill(unfilled)).index.state == "built", "what was left half made is replaced"
    assert await indexes(unfilled) == {"notes_embedding_hnsw": True}


async def test_through_a_pooler_with_a_statement_timeout_it_is_left_out_gently(
    unfilled: World, database: str
) -> None:
    """No setting of the session's reaches the build there, so the role's own limit holds."""
    await fill(unfilled, build_index=False)
    [row] = await unfilled.sql("select current_database() as name")
    async with fault_proxy(database, port=6543) as pooler, open_store(pooler.url) as unfilled.store:
        await unfilled.sql(f"alter database {row['name']} set statement_timeout = '150ms'")
        report = await fill(unfilled)
        assert (report.state, report.complete) == ("completed", True)
        assert report.index.state == "left out"
        assert "5432" in report.index.why
    assert await indexes(unfilled) == {}


async def test_rows_that_cannot_be_counted_in_time_cost_the_count_and_not_the_report(
    unfilled: World, database: str
) -> None:
    """As if the table were so large: the ledger says what is there."""
    await unfilled.sql(
        "insert into backline.counter_deltas values (%s, 'pending', 0, 1)", unfilled.collection.id
    )
    await unfilled.sql(
        "create or replace function backline.recount(p_collection int, p_correct boolean "
        "default true) returns jsonb language sql as $$ select '{}'::jsonb from pg_sleep(10) $$"
    )
    [row] = await unfilled.sql("select current_database() as name")
    await unfilled.sql(f"alter database {row['name']} set statement_timeout = '1s'")
    async with open_store(database) as unfilled.store:
        report = await fill(unfilled, build_index=False)
    assert (report.state, report.coverage.embedded, report.complete) == ("completed", ROWS, True)
    assert "statement_timeout" in report.notices[0]
