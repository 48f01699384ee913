"""No query plan reads a whole table for each row of a page, whatever the statistics say.

A vacuum usually finds an empty queue, so the statistics describe an empty table. Before every
look-up was made by key, that turned a backfill of 100,000 rows from 4 s into 100 s.
"""

from __future__ import annotations

import asyncio

from tests.integration.harness import declare

from backline.backfill import Backfill
from backline.embedders.hash import HashEmbedder
from backline.embedders.limiter import Limiter
from backline.postgres.store import Store, open_store
from backline.types import Collection
from backline.worker.options import WorkerOptions

ROWS = 4000
# Insert, claim, complete and end fetch each row a few times. A plan that scans the table for each
# look-up fetches it about a hundred times.
FETCHES_PER_ROW = 20


async def test_backfill_reads_by_key_despite_statistics_of_an_empty_queue(database: str) -> None:
    async with open_store(database) as store:
        await store.connector.execute("create table notes (id bigint primary key, body text)")
        await store.connector.execute(
            f"insert into notes select i, 'note ' || i from generate_series(1, {ROWS}) i"
        )
        collection = await declare(store, HashEmbedder(8))
        await pretend_empty(store)
        assert (await backfill(store, collection).run()).embedded == ROWS
        await pretend_empty(store)
        await store.connector.execute("update notes set body = body || ' edited'")
        assert (await backfill(store, collection).run()).embedded == ROWS
    assert await row_fetches(database) < FETCHES_PER_ROW * 2 * ROWS


def backfill(store: Store, collection: Collection) -> Backfill:
    return Backfill(store, collection, HashEmbedder(8), Limiter(), WorkerOptions(ahead=2000))


async def test_no_queue_query_reads_every_job(database: str) -> None:
    """Claims, coverage, releases and outstanding work, with one live and one dead worker."""
    async with open_store(database) as store:
        await store.connector.execute("create table notes (id bigint primary key, body text)")
        collection = await declare(store, HashEmbedder(8))
        await store.connector.execute(
            f"insert into notes select i, 'note ' || i from generate_series(1, {ROWS}) i"
        )
    before = await queue_reads(database)
    async with open_store(database) as store:
        live = await store.register(collection, None, 60)
        dead = await store.register(collection, None, 60)
        jobs = await store.claim(collection, live.worker, 100)
        assert len(jobs) == 100
        assert len(await store.claim(collection, dead.worker, 50)) == 50
        coverage = await store.coverage(collection)
        assert (coverage.pending, coverage.in_flight, coverage.workers) == (ROWS, 150, 2)
        assert (await store.outstanding(collection, await store.now()))[0]
        await store.close_session(dead)
        for _ in range(100):
            if await store.release_dead_workers(collection):
                break
            await asyncio.sleep(0.02)
        assert (await store.coverage(collection)).in_flight == 100
        released = await store.connector.fetch_one(
            "select backline.release(%s, %s) as count",
            [live.worker, [jobs[0].key, jobs[1].key]],
        )
        assert released["count"] == 2
        await store.unregister(live)
        assert (await store.coverage(collection)).in_flight == 0
    assert await queue_reads(database) - before < ROWS


async def queue_reads(database: str) -> int:
    """Return how many rows and index entries of the queue have been read.

    Postgres adds the reads of a session when it ends, hence the separate connection.
    """
    async with open_store(database) as store:
        row = await store.connector.fetch_one(
            "select (select seq_tup_read from pg_stat_all_tables "
            "where relid = 'backline.jobs'::regclass) + (select sum(idx_tup_read) from "
            "pg_stat_all_indexes where relid = 'backline.jobs'::regclass)::bigint as n"
        )
        return int(row["n"])


async def pretend_empty(store: Store) -> None:
    """Write the statistics that a vacuum of an empty queue leaves: pages without rows."""
    await store.connector.execute(
        "update pg_class set reltuples = 0, relpages = 100 "
        "where oid in ('backline.jobs'::regclass, 'backline.stamps'::regclass)"
    )


async def row_fetches(database: str) -> int:
    """Return how many rows of the queue and the stamps have been read, see `queue_reads`."""
    async with open_store(database) as store:
        row = await store.connector.fetch_one(
            "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint as n "
            "from pg_stat_user_tables where schemaname = 'backline' "
            "and relname in ('jobs', 'stamps')"
        )
        return int(row["n"])
