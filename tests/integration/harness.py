"""A small world to test the engine in: one table, one collection, one provider, and a witness.

The witness judges by means of its own: it reads the tables directly, hashes the texts itself, and
knows what vector the stand-in provider gives to each text.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow, dict_row
from tests.provider import StandInProvider

from backline.backfill import Backfill, BackfillReport
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.embedders.limiter import Limiter
from backline.embedders.openai.embedder import OpenAIEmbedder
from backline.postgres.store import Store
from backline.sync import Sync
from backline.types import Collection, LongText
from backline.verification import verify as verify_collection
from backline.worker.options import WorkerOptions

DIMENSIONS = 8
QUICK = WorkerOptions(batch_size=20, concurrency=2, lease=20, give_up_after=20, grace=2, poll=0.2)


def quick_limiter(max_concurrency: int = 8, speed: float = 20.0) -> Limiter:
    """A limiter whose minutes are seconds: what it waits for, it waits for `speed` times less."""

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / speed)

    return Limiter(
        max_concurrency=max_concurrency, clock=lambda: time.monotonic() * speed, sleep=sleep
    )


def standin_embedder(provider: StandInProvider, dimensions: int = DIMENSIONS) -> OpenAIEmbedder:
    """The real OpenAI embedder, talking to the stand-in."""
    return OpenAIEmbedder(
        "text-embedding-3-small",
        dimensions,
        base_url=provider.base_url,
        api_key=provider.api_key,
        timeout=20,
    )


@dataclass
class World:
    """One collection with everything around it. `sql` speaks as a user of the table does."""

    store: Store
    collection: Collection
    embedder: Embedder
    user: AsyncConnection[DictRow]
    options: WorkerOptions = QUICK
    limiter: Limiter = field(default_factory=quick_limiter)

    # --- the user ---

    async def sql(self, statement: str, *params: Any) -> list[DictRow]:
        """A statement of a user who knows nothing of Backline."""
        return await execute(self.user, statement, *params)

    async def insert(self, *texts: str | None, first: int = 1) -> None:
        """Rows `first`, `first` + 1, … with these texts."""
        rows = [(first + at, text) for at, text in enumerate(texts)]
        async with (
            self.user.cursor() as cursor,
            cursor.copy("copy notes (id, body) from stdin") as copy,
        ):
            for row in rows:
                await copy.write_row(row)

    @asynccontextmanager
    async def another_user(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        """A second connection, in a transaction that is rolled back unless it is committed."""
        async with await connect(self.store.connector.conninfo) as connection:
            await connection.set_autocommit(False)
            yield connection
            await connection.rollback()

    # --- the engine ---

    def backfill(self, **options: Any) -> Backfill:
        return Backfill(
            self.store,
            self.collection,
            self.embedder,
            self.limiter,
            replace(self.options, **options),
        )

    async def fill(self, **options: Any) -> BackfillReport:
        return await asyncio.wait_for(self.backfill(**options).run(), 60)

    @asynccontextmanager
    async def following(self, **options: Any) -> AsyncIterator[Sync]:
        """A sync that runs until the end of the block, and must end well."""
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

    async def settled(self, within: float = 60) -> None:
        """Wait until no job is open."""

        async def idle() -> bool:
            return not await self.jobs()

        await eventually(idle, "the queue to be empty", within)

    # --- the witness ---

    async def enqueue(self, limit: int = 100) -> None:
        """Enqueue the due rows among the first `limit`, by the function that SQL users call."""
        async with self.store.connector.transaction() as transaction:
            await transaction.execute("set local lock_timeout = '200ms'")
            await transaction.execute(
                "select backline.enqueue_page(%s, null, %s)", [self.collection.id, limit]
            )

    async def release(self, worker: int, keys: list[str] | None = None) -> int:
        """Give leased jobs back, all or some, by the function that SQL users call."""
        row = await self.store.connector.fetch_one(
            "select backline.release(%s, %s) as released", [worker, keys]
        )
        return int(row["released"])

    async def jobs(self) -> dict[str, int | None]:
        """The worker that holds each row that is not done, by key: a job, or a row of a page."""
        rows = await self.sql(_WAITING, *[self.collection.id] * 2)
        return {row["key"]: row["worker_id"] for row in rows}

    async def failures(self) -> dict[str, str]:
        """The error of each dead letter, by key."""
        return {f.key: f.error async for f in self.store.failures(self.collection)}

    async def faults(self) -> list[str]:
        """Everything that is wrong now, also while work is open: it should be empty always."""
        return [
            *await self._row_faults(),
            *await self._orphans(),
            *await self._ledger_faults(),
        ]

    async def check_sound(self) -> None:
        faults = await self.faults()
        assert not faults, "\n".join(faults[:20])

    async def check_sound_but_for_missing(self) -> None:
        """As `check_sound`, where rows have never been enqueued."""
        faults = [fault for fault in await self.faults() if "nothing waits for it" not in fault]
        assert not faults, "\n".join(faults[:20])

    async def check_complete(self, *, dead: Sequence[str] = ()) -> None:
        """Everything is embedded and nothing is left over, but for the dead letters named."""
        await self.check_sound()
        assert await self.jobs() == {}
        assert sorted(await self.failures()) == sorted(dead)
        left = await self.sql("select * from backline.workers")
        assert left == [], "a worker did not leave"
        if dead:
            return
        coverage = await self.store.coverage(self.collection)
        assert coverage.complete
        assert coverage.missing == 0
        found = await verify_collection(self.store, self.collection)
        assert found.problems == {}, found

    async def _row_faults(self) -> list[str]:
        """Rows that are neither rightly embedded, nor waiting, nor dead letters."""
        rows = await self.sql(_ROWS.format(**self._names()), self.collection.id)
        vectors = hash_vectors([row["content"] for row in rows], self.collection.model.dimensions)
        return [
            f"row {row['key']} {row['content'][:40]!r}: {fault}"
            for row, vector in zip(rows, vectors, strict=True)
            if (fault := self._fault(row, vector))
        ]

    def _fault(self, row: DictRow, right: np.ndarray[Any, Any]) -> str | None:
        fresh = row["stamp_hash"] is not None and not row["stale"]
        if fresh and row["stamp_model"] == self.collection.model_id:
            if row["stamp_hash"] != row["hash"]:
                return None if row["waits"] or row["dead"] else "its stamp is of another text"
            if row["blank"] != (row["content"] == ""):
                return "its stamp is wrong about being blank"
            if row["blank"]:
                return None if row["embedding"] is None else "is blank and has a vector"
            if row["embedding"] is None:
                return "is stamped and has no vector"
            stored = np.array(json.loads(row["embedding"]), dtype=np.float32)
            if np.abs(stored - right).max() > 1e-3:
                return "its vector is of another text"
            return None
        return None if row["waits"] or row["dead"] else "is not embedded, and nothing waits for it"

    async def _orphans(self) -> list[str]:
        rows = await self.sql(_ORPHANS.format(**self._names()), *[self.collection.id] * 3)
        return [f"{row['kind']} of {row['key']}, which does not exist" for row in rows]

    async def _ledger_faults(self) -> list[str]:
        rows = await self.sql(_LEDGER.format(**self._names()), *[self.collection.id] * 6)
        return [
            f"the ledger says {row['said']} {row['measure']} of model {row['model_id']}, "
            f"there are {row['counted']}"
            for row in rows
        ]

    def _names(self) -> dict[str, str]:
        return {
            "table": sql.Identifier(
                self.collection.table_schema, self.collection.table_name
            ).as_string(),
            "key": sql.Identifier(self.collection.key_column).as_string(),
            "column": sql.Identifier(self.collection.embedding_column).as_string(),
            "content": "btrim(concat(r.body), E' \\t\\n\\r')",
        }


_WAITING = """
select key, worker_id from backline.jobs where collection_id = %s
union select u.key, p.worker_id from backline.batch_leases p cross join unnest(p.keys) as u(key)
  where p.collection_id = %s and not exists (select from backline.stamps s
    where s.collection_id = p.collection_id and s.key = u.key and not s.stale)
"""

_ROWS = """
select r.{key}::text as key, {content} as content, sha256(convert_to({content}, 'UTF8')) as hash,
  r.{column}::text as embedding, s.content_hash as stamp_hash, s.stale, s.blank,
  s.model_id as stamp_model, j.key is not null or exists (
    select from backline.batch_leases p
    where p.collection_id = c.id and r.{key}::text = any (p.keys)) as waits,
  coalesce(f.content_hash = sha256(convert_to({content}, 'UTF8')), false) as dead
from {table} r
cross join (select %s::int as id) c
left join backline.stamps s on s.collection_id = c.id and s.key = r.{key}::text
left join backline.jobs j on j.collection_id = c.id and j.key = r.{key}::text
left join backline.failures f on f.collection_id = c.id and f.key = r.{key}::text
"""

_ORPHANS = """
select x.kind, x.key from (
  select 'a stamp' as kind, s.key from backline.stamps s where s.collection_id = %s
  union all select 'a job', j.key from backline.jobs j where j.collection_id = %s
  union all select 'a dead letter', f.key from backline.failures f where f.collection_id = %s
) x where not exists (select from {table} r where r.{key}::text = x.key)
"""

_LEDGER = """
select coalesce(l.measure, n.measure) as measure, coalesce(l.model_id, n.model_id) as model_id,
  coalesce(l.amount, 0) as said, coalesce(n.amount, 0) as counted
from (
  select t.measure, t.model_id, sum(t.amount) as amount from backline.counter_deltas t
  where t.collection_id = %s group by t.measure, t.model_id having sum(t.amount) <> 0
) l full join (
  select 'rows' as measure, 0 as model_id, count(*) as amount from {table} having count(*) > 0
  union all select case when s.blank then 'blank' else 'embedded' end, s.model_id, count(*)
    from backline.stamps s where s.collection_id = %s and not s.stale group by 1, 2
  union all select 'long', s.model_id, count(*)
    from backline.stamps s where s.collection_id = %s and s.long and not s.stale group by s.model_id
  union all select 'pending', 0, count(*) from backline.jobs j
    where j.collection_id = %s having count(*) > 0
  union all select 'failed', 0, count(*) from backline.failures f
    where f.collection_id = %s having count(*) > 0
) n on n.measure = l.measure and n.model_id = l.model_id
where coalesce(l.amount, 0) <> coalesce(n.amount, 0) and %s > 0
"""


# --- making one -----------------------------------------------------------------------------------


async def connect(url: str) -> AsyncConnection[DictRow]:
    return await AsyncConnection.connect(
        url, autocommit=True, row_factory=dict_row, application_name="a user"
    )


async def execute(
    connection: AsyncConnection[DictRow], statement: str, *params: Any
) -> list[DictRow]:
    cursor = await connection.execute(statement, params or None)
    return await cursor.fetchall() if cursor.description else []


async def declare(
    store: Store,
    embedder: Embedder,
    *,
    table: str = "notes",
    template: str = "{body}",
    key: str | None = None,
    column: str = "embedding",
    column_type: str = "vector",
    long_text: LongText = "truncate",
) -> Collection:
    """Make a table a collection."""
    found = await store.find_table(table)
    await store.add_collection(
        table, found["oid"], key=key, template=template, column=column,
        model=embedder.model, column_type=column_type, long_text=long_text,
    )  # fmt: skip
    return await store.collection(table)


NOTES = """
create table notes (id bigint primary key, body text, views int not null default 0)
"""


@asynccontextmanager
async def make_world(
    store: Store,
    provider: StandInProvider | None = None,
    *,
    ddl: str = NOTES,
    embedder: Embedder | None = None,
    **declaration: Any,
) -> AsyncIterator[World]:
    """A world over a table made by `ddl`; without a provider, vectors are made in the process."""
    if embedder is None:
        embedder = HashEmbedder(DIMENSIONS) if provider is None else standin_embedder(provider)
    async with await connect(store.connector.conninfo) as user:
        await execute(user, ddl)
        collection = await declare(store, embedder, **declaration)
        made = World(store, collection, embedder, user)
        try:
            yield made
        finally:
            await embedder.aclose()


async def eventually(
    condition: Callable[[], Any], what: str, within: float = 60, every: float = 0.02
) -> None:
    """Wait for a condition, which may be a coroutine function."""
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline, f"waited {within} s for {what}"
        await asyncio.sleep(every)


def overpaid(provider: StandInProvider) -> Counter[str]:
    """Texts that were paid for more than once, and how often too many."""
    return Counter({text: n - 1 for text, n in provider.texts_embedded.items() if n > 1})


async def blocked_by_backline(connection: AsyncConnection[DictRow]) -> list[DictRow]:
    """Sessions that wait for a lock which a session of Backline holds."""
    return await execute(
        connection,
        "select w.pid, w.query from pg_stat_activity w "
        "join pg_stat_activity b on b.pid = any (pg_blocking_pids(w.pid)) "
        "where b.application_name = 'backline' and w.application_name <> 'backline'",
    )


async def waits_for_a_lock(store: Store, statement: str) -> bool:
    """Whether a session of the database does, in a statement that is LIKE this."""
    found = await store.connector.fetch(
        "select 1 from pg_stat_activity where wait_event_type = 'Lock' "
        "and datname = current_database() and query like %s", [statement],
    )  # fmt: skip
    return bool(found)


async def open_transactions(connection: AsyncConnection[DictRow]) -> list[DictRow]:
    """Sessions of Backline that have a transaction open, and what they did last."""
    return await execute(
        connection,
        "select pid, xact_start, state, query from pg_stat_activity "
        "where application_name = 'backline' "
        "and datname = current_database() and xact_start is not null",
    )


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """A coroutine at work beside the block; it is cancelled if the block fails."""
    task = asyncio.create_task(work)
    try:
        yield task
    except BaseException:
        task.cancel()
        with suppress(asyncio.CancelledError, psycopg.Error):
            await task
        raise
