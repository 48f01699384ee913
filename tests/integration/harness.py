"""The world of the engine's tests: one table, one collection, one provider and an oracle."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow, dict_row
from tests.integration.oracle import NOT_QUEUED, Oracle
from tests.provider import StandInProvider

from backline import pgvector
from backline.backfill import Backfill, BackfillReport
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.embedders.limiter import Limiter
from backline.embedders.openai.embedder import OpenAIEmbedder
from backline.postgres.administration import Existing
from backline.postgres.store import Store
from backline.store import NewVector
from backline.sync import Sync
from backline.types import Collection, Job, LongText, Splitting
from backline.verification import verify
from backline.worker.options import WorkerOptions

DIMENSIONS = 8
QUICK = WorkerOptions(batch_size=20, concurrency=2, lease=20, give_up_after=20, grace=2, poll=0.2)
# About 12,000 tokens, more than a model reads.
LONG = " ".join(f"Take {n} of the voice in the small room." for n in range(1200))
NOTES = """
create table notes (id bigint primary key, body text, views int not null default 0)
"""


# --- parts of a world -----------------------------------------------------------------------------


def texts(count: int, *, first: int = 1, replaced: Mapping[int, str] | None = None) -> list[str]:
    """Return `count` distinct texts numbered from `first`, with some replaced by number."""
    return [(replaced or {}).get(n, f"text {n}") for n in range(first, first + count)]


def quick_limiter(max_concurrency: int = 8, speed: float = 20.0) -> Limiter:
    """Return a limiter with a clock that runs `speed` times as fast, and shorter waits."""

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / speed)

    return Limiter(
        max_concurrency=max_concurrency, clock=lambda: time.monotonic() * speed, sleep=sleep
    )


def standin_embedder(provider: StandInProvider, dimensions: int = DIMENSIONS) -> OpenAIEmbedder:
    """Return the real OpenAI embedder, connected to the stand-in provider."""
    return OpenAIEmbedder(
        "text-embedding-3-small",
        dimensions,
        base_url=provider.base_url,
        api_key=provider.api_key,
        timeout=20,
    )


def new_vector(job: Job) -> NewVector:
    """Return what a worker stores for a job: the vector for `embed`, otherwise only the hash."""
    if job.action != "embed":
        return NewVector(job.key, job.action, job.content_hash, lease=job.lease)
    [element] = pgvector.vector_elements(hash_vectors([job.content], DIMENSIONS))
    return NewVector(job.key, job.action, job.content_hash, element, job.lease)


async def connect(url: str) -> AsyncConnection[DictRow]:
    """Connect as a user of the table, in autocommit mode."""
    return await AsyncConnection.connect(
        url, autocommit=True, row_factory=dict_row, application_name="a user"
    )


async def execute(
    connection: AsyncConnection[DictRow], statement: str, *params: Any
) -> list[DictRow]:
    """Execute a statement and return its rows, if it returns any."""
    cursor = await connection.execute(statement, params or None)
    return await cursor.fetchall() if cursor.description is not None else []


async def declare(
    store: Store,
    embedder: Embedder,
    *,
    table: str = "notes",
    name: str | None = None,
    template: str | None = "{body}",
    key: str | Sequence[str] | None = None,
    column: str = "embedding",
    column_type: str = "vector",
    long_text: LongText = "truncate",
    published: bool = False,
    into: str | None = None,
    text_sql: str | None = None,
    where: str | None = None,
    language: str | None = None,
    language_column: str | None = None,
    follow: str | None = None,
    existing: Existing = "refuse",
    splitting: Splitting | None = None,
    partitions: int = 1,
) -> Collection:
    """Add a collection over a table, and return it."""
    row = await store.find_table(table)
    await store.add_collection(
        name or table, row["oid"], key=key, template=template, column=column,
        model=embedder.model, column_type=column_type, long_text=long_text,
        published=published, into=into, text_sql=text_sql, where=where, language=language,
        language_column=language_column, follow=follow, existing=existing,
        splitting=splitting, partitions=partitions,
    )  # fmt: skip
    return await store.collection(name or table)


# --- the world ------------------------------------------------------------------------------------


@asynccontextmanager
async def make_world(
    store: Store,
    provider: StandInProvider | None = None,
    *,
    ddl: str = NOTES,
    embedder: Embedder | None = None,
    **declaration: Any,
) -> AsyncIterator[World]:
    """Make a world over the table that `ddl` creates; its embedder is closed at the end.

    Without a provider or an embedder, hash vectors are computed in the process.
    """
    if "into" not in declaration and "column" not in declaration:
        declaration["into"] = os.environ.get("BACKLINE_TESTED_SIDE_TABLE")
        if tokens := os.environ.get("BACKLINE_TESTED_PASSAGES"):
            declaration |= {"into": "tested", "splitting": Splitting("auto", int(tokens))}
    if embedder is None:
        embedder = HashEmbedder(DIMENSIONS) if provider is None else standin_embedder(provider)
    async with await connect(store.connector.conninfo) as user:
        await execute(user, ddl)
        collection = await declare(store, embedder, **declaration)
        try:
            yield World(store, collection, embedder, user)
        finally:
            await embedder.aclose()


@dataclass
class World:
    """A collection with its store and embedder, and the connection of a user of the table."""

    store: Store
    collection: Collection
    embedder: Embedder
    user: AsyncConnection[DictRow]
    options: WorkerOptions = QUICK
    limiter: Limiter = field(default_factory=quick_limiter)

    # --- the user ---

    async def sql(self, statement: str, *params: Any) -> list[DictRow]:
        """Execute a statement on the user's connection."""
        return await execute(self.user, statement, *params)

    async def insert(self, *bodies: str | None, first: int = 1) -> None:
        """Copy rows with these texts into the table, with ids from `first` on."""
        async with (
            self.user.cursor() as cursor,
            cursor.copy("copy notes (id, body) from stdin") as copy,
        ):
            for row in enumerate(bodies, first):
                await copy.write_row(row)

    async def bypassing_triggers(self, *statements: str, params: Any = None) -> None:
        """Execute statements without triggers, as a load, a restore or a replica does."""
        await self.sql("set session_replication_role = replica")
        for statement in statements:
            await self.user.execute(statement, params)
        await self.sql("set session_replication_role = origin")

    async def run_on_write(self, body: str) -> None:
        """Create a user's trigger that runs `body` before a vector is written to a row."""
        await self.sql(
            "create function on_write() returns trigger language plpgsql as "
            f"$$ begin {body} return new; end $$"
        )
        await self.sql(
            "create trigger on_write before update of embedding on notes "
            "for each row execute function on_write()"
        )

    async def remove_write_trigger(self) -> None:
        """Drop the trigger of `run_on_write`."""
        await self.sql("drop trigger on_write on notes")

    @asynccontextmanager
    async def another_user(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        """Open a second connection in a transaction, rolled back at the end of the block."""
        async with await connect(self.store.connector.conninfo) as connection:
            await connection.set_autocommit(False)
            yield connection
            await connection.rollback()

    # --- the administrator ---

    async def set_database_default(self, setting: str) -> None:
        """Set a default, such as "work_mem = '1MB'", for new sessions of the database."""
        [row] = await self.sql("select current_database() as name")
        await self.sql(f"alter database {row['name']} set {setting}")

    async def set_max_attempts(self, attempts: int) -> None:
        """Set how often a row is tried, and reload the collection."""
        await self.sql("update backline.collections set max_attempts = %s", attempts)
        self.collection = await self.store.collection("notes")

    async def enqueue(self, limit: int = 100) -> None:
        """Enqueue the due rows among the first `limit` through the public SQL function."""
        async with self.store.connector.transaction() as transaction:
            await transaction.execute("set local lock_timeout = '200ms'")
            await transaction.execute(
                "select backline.enqueue_page(%s, null, %s)", [self.collection.id, limit]
            )

    async def release(self, worker: int, keys: Sequence[str] | None = None) -> int:
        """Release a worker's jobs, all or those of `keys`, through the public SQL function."""
        row = await self.store.connector.fetch_one(
            "select backline.release(%s, %s) as released", [worker, keys]
        )
        return int(row["released"])

    # --- the engine ---

    def backfill(self, **options: Any) -> Backfill:
        """Return a backfill; `options` replace fields of the world's WorkerOptions."""
        return Backfill(
            self.store,
            self.collection,
            self.embedder,
            self.limiter,
            replace(self.options, **options),
        )

    async def fill(self, **options: Any) -> BackfillReport:
        """Run a backfill to its end, within 60 s."""
        return await asyncio.wait_for(self.backfill(**options).run(), 60)

    @asynccontextmanager
    async def syncing(self, **options: Any) -> AsyncIterator[Sync]:
        """Run a sync until the end of the block; its errors are raised there."""
        sync = Sync(
            self.store,
            self.collection,
            self.embedder,
            self.limiter,
            replace(self.options, **options),
        )
        task = asyncio.create_task(sync.run())
        try:
            yield sync
        finally:
            sync.stop()
            await asyncio.wait_for(task, 30)

    async def wait_until_idle(self, within: float = 60) -> None:
        """Wait until no job is open."""

        async def idle() -> bool:
            return not await self.open_jobs()

        await eventually(idle, "the queue to be empty", within)

    async def wait_until_disconnected(self) -> None:
        """Wait until Postgres has ended the sessions of dead workers, and with them their locks."""

        async def disconnected() -> bool:
            return not await self.sql(
                "select 1 from pg_locks l join pg_database d on d.oid = l.database "
                "where l.locktype = 'advisory' and d.datname = current_database()"
            )

        await eventually(disconnected, "the sessions to end")

    async def wait_until_released(self) -> None:
        """Wait until no worker is registered; Postgres notices a cut connection with a delay."""

        async def released() -> bool:
            await self.store.release_dead_workers(self.collection)
            return not await self.sql("select 1 from backline.workers")

        await eventually(released, "the dead workers to be released")

    # --- the state, judged by the oracle ---

    async def stored_vector(self, key: int) -> np.ndarray[Any, Any]:
        """Return the vector that the table holds for a row, in float32."""
        relation = sql.Identifier(*(self.collection.into or ("public", "notes"))).as_string()
        name = "key_1" if self.collection.into else "id"
        [row] = await self.sql(
            f"select embedding::real[] as vector from {relation} where {name} = %s limit 1", key
        )
        return np.array(row["vector"], dtype=np.float32)

    async def apply_changes(self) -> None:
        """Apply the change log, as a worker does before it claims."""
        left: bool | None = True
        while left is not False:
            [row] = await self.sql("select backline.apply_changes(%s) as left", self.collection.id)
            left = row["left"]

    async def jobs(self) -> dict[str, int | None]:
        """Apply the change log, and return the worker of each unfinished row by key."""
        await self.apply_changes()
        return await self.open_jobs()

    async def open_jobs(self) -> dict[str, int | None]:
        """Return the worker of each unfinished row by key; None if the row waits for one."""
        return await self._oracle().open_jobs()

    async def failures(self) -> dict[str, str]:
        """Return the error of each dead letter by key."""
        return {f.key: f.error async for f in self.store.failures(self.collection)}

    async def violations(self) -> list[str]:
        """Return every broken invariant; empty at any moment, also while jobs are open."""
        return await self._oracle().violations()

    async def check_consistent(self) -> None:
        """Assert that no invariant is broken."""
        violations = await self.violations()
        assert not violations, "\n".join(violations[:20])

    async def check_consistent_except_unqueued(self) -> None:
        """Assert that no invariant is broken, apart from rows that were never enqueued."""
        violations = [each for each in await self.violations() if NOT_QUEUED not in each]
        assert not violations, "\n".join(violations[:20])

    async def check_complete(self, *, dead: Sequence[str] = ()) -> None:
        """Assert that every row is embedded, except the `dead` letters, and no job is open."""
        await self.check_consistent()
        assert await self.jobs() == {}
        await self.check_consistent()
        assert sorted(await self.failures()) == sorted(dead)
        registered = await self.sql("select * from backline.workers")
        assert registered == [], "a worker is still registered"
        if dead:
            return
        coverage = await self.store.coverage(self.collection)
        assert coverage.complete
        assert coverage.missing == 0
        verification = await verify(self.store, self.collection)
        assert verification.problems == {}, verification

    def _oracle(self) -> Oracle:
        return Oracle(self.user, self.collection)


# --- waiting and observing ------------------------------------------------------------------------


async def eventually(
    condition: Callable[[], Any], what: str, within: float = 60, every: float = 0.02
) -> None:
    """Wait for a condition, which may be a coroutine function, and fail after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, f"waited {within} s for {what}"
        await asyncio.sleep(every)


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a coroutine beside the block, and cancel it if the block fails."""
    task = asyncio.create_task(work)
    try:
        yield task
    except BaseException:
        task.cancel()
        with suppress(asyncio.CancelledError, psycopg.Error):
            await task
        raise


@asynccontextmanager
async def during_call(
    world: World, provider: StandInProvider, *, calls: int = 1, **options: Any
) -> AsyncIterator[asyncio.Task[BackfillReport]]:
    """Run a backfill, and hold its provider calls until the end of the block.

    The block begins when `calls` calls are in flight; the backfill is finished after it.
    """
    async with running(world.fill(**options)) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight, calls)
            yield filling
        await filling


def overpaid(provider: StandInProvider) -> Counter[str]:
    """Return the texts that the provider embedded more than once, with the excess count."""
    return Counter({text: n - 1 for text, n in provider.texts_embedded.items() if n > 1})


async def not_stored(world: World, embedded: Iterable[str]) -> set[str]:
    """Return those of the `embedded` texts of which no row holds a vector."""
    with_vector = "embedding is not null"
    if world.collection.into:
        side = sql.Identifier(*world.collection.into).as_string()
        with_vector = f"id in (select key_1 from {side})"
    rows = await world.sql(f"select body from notes where {with_vector}")
    return set(embedded) - {row["body"] for row in rows}


async def blocked_by_backline(connection: AsyncConnection[DictRow]) -> list[DictRow]:
    """Return the sessions that wait for a lock which a session of Backline holds."""
    return await execute(
        connection,
        "select w.pid, w.query from pg_stat_activity w "
        "join pg_stat_activity b on b.pid = any (pg_blocking_pids(w.pid)) "
        "where b.application_name = 'backline' and w.application_name <> 'backline'",
    )


async def waits_for_lock(store: Store, statement: str) -> bool:
    """Return whether a session waits for a lock in a statement that is LIKE `statement`."""
    rows = await store.connector.fetch(
        "select 1 from pg_stat_activity where wait_event_type = 'Lock' "
        "and datname = current_database() and query like %s", [statement],
    )  # fmt: skip
    return bool(rows)


async def open_transactions(connection: AsyncConnection[DictRow]) -> list[DictRow]:
    """Return the sessions of Backline with an open transaction, and their last statements."""
    return await execute(
        connection,
        "select pid, xact_start, state, query from pg_stat_activity "
        "where application_name = 'backline' "
        "and datname = current_database() and xact_start is not null",
    )
