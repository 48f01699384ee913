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
    waits_for_a_lock,
)
from tests.integration.proxy import relay

from backline.backfill import Backfill, BackfillReport
from backline.embedders.hash import HashEmbedder
from backline.embedders.limiter import Limiter
from backline.postgres.store import Store, open_store
from backline.worker.options import WorkerOptions

ROWS = 10_000  # ROWS_WORTH_AN_INDEX
BULK = WorkerOptions(batch_size=500, ahead=2000, give_up_after=20)


@pytest.fixture
async def world(store: Store) -> AsyncIterator[World]:
    """A table that is worth an index, and has no vectors."""
    async with make_world(store, embedder=HashEmbedder(8)) as made:
        await made.sql(
            f"insert into notes select i, 'text ' || i from generate_series(1, {ROWS}) i"
        )
        yield made


async def fill(world: World, *, build_index: bool = True, **options: int) -> BackfillReport:
    chosen = WorkerOptions(batch_size=500, ahead=2000, give_up_after=20, **options)  # type: ignore[arg-type]
    work = Backfill(
        world.store, world.collection, world.embedder, Limiter(), chosen, build_index=build_index
    )
    return await work.run()


async def indexes(world: World) -> dict[str, bool]:
    """Whether each HNSW index of the table is valid."""
    rows = await world.sql(
        "select k.relname as name, i.indisvalid as valid from pg_index i "
        "join pg_class k on k.oid = i.indexrelid join pg_am a on a.oid = k.relam "
        "where i.indrelid = 'notes'::regclass and a.amname = 'hnsw'"
    )
    return {row["name"]: row["valid"] for row in rows}


async def test_a_big_table_gets_its_index_after_the_fill(world: World) -> None:
    report = await fill(world)
    assert (report.embedded, report.index.state) == (ROWS, "built")
    assert report.index.seconds > 0
    assert await indexes(world) == {"notes_embedding_hnsw": True}
    again = await fill(world)
    assert (again.index.state, again.embedded, again.notices) == ("in place", 0, [])


async def test_an_index_that_is_not_wanted(world: World) -> None:
    report = await fill(world, build_index=False)
    assert (report.index.state, report.index.why) == ("left out", "not requested")
    assert await indexes(world) == {}
    assert (await fill(world)).index.state == "built", "a later run makes up for it"


async def test_a_trial_run_builds_no_index(world: World) -> None:
    report = await fill(world, max_rows=100)
    assert report.index.state == "left out"
    assert await indexes(world) == {}


async def test_a_small_table_needs_none(world: World) -> None:
    await world.sql("delete from notes where id > 100")
    assert (await fill(world)).index.state == "not needed"


async def test_an_index_that_is_there_before_a_bulk_fill_is_pointed_out(world: World) -> None:
    await world.sql("create index mine on notes using hnsw (embedding extensions.vector_l2_ops)")
    said: list[str] = []
    work = Backfill(
        world.store, world.collection, world.embedder, Limiter(), BULK, build_index=False
    )
    report = await work.run(notice=said.append)
    assert report.notices == said
    [notice] = said
    assert f"About {ROWS:,} of {ROWS:,} rows" in notice
    assert "drop index public.mine" in notice


async def test_an_index_is_no_matter_where_little_is_left(world: World) -> None:
    await fill(world)
    await world.sql("update notes set body = 'edited ' || id where id <= 2000")
    assert (await fill(world)).notices == []


async def test_a_table_that_somebody_holds_costs_the_index_and_not_the_fill(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backline.search.indexes.LOCK_TIMEOUT", "300ms")
    await fill(world, build_index=False)
    await world.sql("update notes set body = 'edited ' || id where id <= 10")
    async with world.another_user() as reader:
        await execute(reader, "lock table notes in row exclusive mode")
        async with running(fill(world)) as filling:
            waits = partial(waits_for_a_lock, world.store, "create index%")
            await eventually(waits, "the index to wait", every=0.005)
            [run, *_] = await world.store.runs(world.collection)
            assert run.state == "completed", "the table is filled, and no worker lives"
            ended = run.finished_at
            report = await filling
    [run, *_] = await world.store.runs(world.collection)
    assert (run.state, run.finished_at, run.seconds) == ("completed", ended, report.seconds)
    assert (report.state, report.embedded, report.complete) == ("completed", 10, True)
    assert report.index.state == "left out"
    assert "backline index notes" in report.index.why
    assert True not in (await indexes(world)).values()
    assert (await fill(world)).index.state == "built", "what was left half made is replaced"
    assert await indexes(world) == {"notes_embedding_hnsw": True}


async def test_through_a_pooler_with_a_statement_timeout_it_is_left_out_gently(
    world: World, database: str
) -> None:
    """No setting of the session's reaches the build there, so the role's own limit holds."""
    await fill(world, build_index=False)
    [row] = await world.sql("select current_database() as name")
    async with relay(database, port=6543) as pooled, open_store(pooled.url) as world.store:
        await world.sql(f"alter database {row['name']} set statement_timeout = '150ms'")
        report = await fill(world)
        assert (report.state, report.complete) == ("completed", True)
        assert report.index.state == "left out"
        assert "5432" in report.index.why
    assert await indexes(world) == {}


async def test_rows_that_cannot_be_counted_in_time_cost_the_count_and_not_the_report(
    world: World, database: str
) -> None:
    """As if the table were so large: the ledger says what is there."""
    await world.sql(
        "insert into backline.counter_deltas values (%s, 'pending', 0, 1)", world.collection.id
    )
    await world.sql(
        "create or replace function backline.recount(p_collection int, p_correct boolean "
        "default true) returns jsonb language sql as $$ select '{}'::jsonb from pg_sleep(10) $$"
    )
    [row] = await world.sql("select current_database() as name")
    await world.sql(f"alter database {row['name']} set statement_timeout = '1s'")
    async with open_store(database) as world.store:
        report = await fill(world, build_index=False)
    assert (report.state, report.coverage.embedded, report.complete) == ("completed", ROWS, True)
    assert "statement_timeout" in report.notices[0]
