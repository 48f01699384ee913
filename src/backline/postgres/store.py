"""The store over a connection to Postgres.

Every rule is a SQL function in the schema `backline`. A verb calls one and returns typed values.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from typing import Any, Final

from psycopg.rows import DictRow

from backline import pgvector
from backline.postgres.connector import Connector
from backline.postgres.model_changes import ModelChangeVerbs
from backline.sql import queries, query
from backline.store import (
    NO_USAGE,
    Capabilities,
    KeywordsPage,
    Lease,
    LeasedBatch,
    NewVector,
    ReceivedLeases,
    Usage,
)
from backline.store_verbs import ChangeVerbs, QueueVerbs, RunVerbs
from backline.types import Collection, Job, Outcome

# A lost claim costs nothing, so its commit does not wait for the disk. A process that is stopped in
# a claim would keep the locks of the scan and of the log.
_CLAIM = "set local synchronous_commit = off; set local idle_in_transaction_session_timeout = '5s'"
_KEYWORDS_PAGE: Final = 2000


class PostgresRpc:
    """Runs the statement of queries.sql that has the verb's name; psycopg encodes the values."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def value(self, verb: str, /, **arguments: Any) -> Any:
        [value] = (await self._connector.fetch_one(query(verb), arguments)).values()
        return value

    async def record(self, verb: str, /, **arguments: Any) -> DictRow:
        return await self._connector.fetch_one(query(verb), arguments)

    async def records(self, verb: str, /, **arguments: Any) -> list[DictRow]:
        return await self._connector.fetch(query(verb), arguments)

    async def rows(self, verb: str, /, **arguments: Any) -> list[list[Any]]:
        records = await self._connector.fetch(query(verb), arguments)
        return [list(record.values()) for record in records]


class Store(ModelChangeVerbs, ChangeVerbs, QueueVerbs, RunVerbs):
    """Reads and writes the collections, the queue and the runs of one database."""

    def __init__(self, connector: Connector) -> None:
        super().__init__(PostgresRpc(connector))
        self.connector = connector
        self._oid: int | None = None
        self._leases = ReceivedLeases()

    @property
    def capabilities(self) -> Capabilities:
        """Return what this store can do; `sessions` is known once the connector is open."""
        return Capabilities(sessions=self.connector.has_sessions, indexes=True, cache=True)

    async def search_rows(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of `backline.search` for the parameters of that statement."""
        vector = values["vector"]
        encoded = {**values, "vector": None if vector is None else pgvector.reals(vector)}
        return await self.connector.fetch(queries("search.sql")["search"], encoded)

    # --- keywords ---

    async def query_text(self, collection: Collection, query: str) -> str:
        """Return the text to embed for a query, with misspelled words corrected."""
        row = await self.connector.fetch_one(
            queries("search.sql")["query_text"], {"collection": collection.id, "query": query}
        )
        return str(row["text"])

    async def needs_keywords(self, collection: Collection) -> bool:
        """Return whether rows are missing from the keyword index, so that it must be built."""
        row = await self.connector.fetch_one(
            queries("search.sql")["keyword_index"], {"collection": collection.id}
        )
        return not row["built"]

    async def build_keywords_page(self, collection: Collection, after: str | None) -> KeywordsPage:
        """Index the keywords of one page of rows."""
        row = await self.connector.fetch_one(
            queries("search.sql")["build_keywords_page"],
            {"collection": collection.id, "after": after, "limit": _KEYWORDS_PAGE},
        )
        return KeywordsPage(row["scanned"], row["last_key"], row["scanned"] < _KEYWORDS_PAGE)

    async def finish_keywords(self, collection: Collection) -> bool:
        """Return whether every row is indexed; if so, merge the index's small blocks."""
        values = {"collection": collection.id}
        row = await self.connector.fetch_one(queries("search.sql")["keywords_are_built"], values)
        if not row["built"]:
            return False
        await self.connector.execute(queries("search.sql")["compact_keywords"], values)
        for table in ("postings", "documents"):  # index-only scans need the visibility map
            await self.connector.execute(f"vacuum (analyze) backline.{table}")
        return True

    # --- jobs ---

    async def work_due(self, collections: Sequence[int]) -> tuple[str, list[float | None]]:
        """Return the snapshot, and the seconds until a claim of each collection finds work.

        Where a claim will find nothing until another transaction commits, the seconds are None.
        """
        row = await self._rpc.record("work_due", collections=list(collections))
        return row["snapshot"], row["seconds"]

    @asynccontextmanager
    async def snapshots(self) -> AsyncIterator[Callable[[], Awaitable[str]]]:
        """Yield a function that returns the present snapshot, over a session of its own.

        Transactions that are visible in one of two equal snapshots are visible in the other.
        """
        if not self.connector.has_sessions:
            yield partial(self._rpc.value, "snapshot")
            return
        session = await self.connector.dedicated()
        try:
            yield partial(self.connector.fetch_text_on, session, query("snapshot"))
        finally:
            await session.close()

    async def claim(
        self, collection: Collection, worker: int, limit: int, *, edits_only: bool = False
    ) -> list[Job]:
        """Apply changes, and lease up to `limit` jobs to a worker.

        An empty list means that no job is due now. With `edits_only`, statements that changed more
        than 1,000 rows are left to a scan of the table.
        """
        values = {
            "collection": collection.id, "worker": worker, "limit": limit,
            "model": collection.model_id, "edits_only": edits_only,
        }  # fmt: skip
        return await self._guarded(collection.id, lambda: self._claim(worker, values))

    async def _claim(self, worker: int, values: Mapping[str, Any]) -> list[Job]:
        lost = {"worker": worker, "received": self._leases.newest(worker)}
        release = self._leases.unanswered(worker)
        self._leases.expect(worker)
        async with self.connector.transaction() as transaction:
            await transaction.execute(_CLAIM)
            if release:
                await transaction.execute(query("release_unacknowledged"), lost)
            rows = await transaction.fetch_tuples(query("claim"), values)
        jobs = [Job._make(row) for row in rows]
        self._leases.receive(worker, jobs)
        return jobs

    async def claim_batch(
        self, collection: Collection, worker: int, run: int | None, after: str | None, limit: int,
        unfinished: Iterable[int] = (),
    ) -> LeasedBatch:  # fmt: skip
        """Scan the next `limit` rows after the key `after`, and lease those that are due.

        `unfinished` are the batch leases that the worker still works on; its other ones are ended.

        Raises:
            ContentionError: another transaction held a due row for 200 ms. Call again.

        """
        values = {
            "collection": collection.id, "worker": worker, "run": run, "after": after,
            "limit": limit, "model": collection.model_id, "unfinished": list(unfinished),
        }  # fmt: skip
        return await self._guarded(collection.id, lambda: self._claim_batch(worker, values))

    async def _claim_batch(self, worker: int, values: Mapping[str, Any]) -> LeasedBatch:
        async with self.connector.transaction() as transaction:
            await transaction.execute(_CLAIM)
            await transaction.execute("set local lock_timeout = '200ms'")
            [(scanned, last, lease, *columns)] = await transaction.fetch_tuples(
                query("claim_batch"), values
            )
        if columns[0] is None:
            return LeasedBatch(scanned, last, [])
        rows = zip(*columns, repeat(0), repeat(lease), strict=False)
        jobs = list(map(Job._make, rows))
        self._leases.receive(worker, jobs)
        return LeasedBatch(scanned, last, jobs)

    async def complete(
        self,
        collection: Collection,
        worker: int,
        run: int | None,
        rows: Sequence[NewVector],
        *,
        cache: bool,
        usage: Usage = NO_USAGE,
    ) -> list[tuple[str, Outcome]]:
        """Store the vectors of unchanged rows and end their jobs, in one transaction.

        The same transaction adds `usage` to the run, and with `cache` keeps each vector in the
        cache under the hash of its text.

        Returns:
            (key, outcome) of the rows that were not written.
        """
        values = {
            "collection": collection.id, "worker": worker, "run": run, "cache": cache,
            "keys": pgvector.texts([row.key for row in rows]),
            "actions": pgvector.texts([row.action for row in rows]),
            "hashes": pgvector.blobs([row.content_hash for row in rows]),
            "vectors": pgvector.Array(await self._vector_oid(), [row.encoded for row in rows]),
            "batches": usage.batches, "tokens": usage.tokens, "truncated": usage.truncated,
            "model": collection.model_id,
            "leases": pgvector.bigints([row.lease for row in rows]),
            "long": [row.long for row in rows] if any(row.long for row in rows) else None,
            **await self._passages(collection, rows, usage),
        }  # fmt: skip
        left = await self.connector.fetch(query("complete"), values)
        return [(row["key"], row["outcome"]) for row in left]

    async def _passages(
        self, collection: Collection, rows: Sequence[NewVector], usage: Usage
    ) -> dict[str, Any]:
        """Return the arguments of `complete` that describe passages; null without any."""
        names = ("of", "starts", "ends", "headings", "passages", "passage_vectors")
        if collection.splitting is None:
            return {"sent": 0, **dict.fromkeys(names)}
        found = [(at, each) for at, row in enumerate(rows, 1) for each in row.passages]
        values = (
            pgvector.ints([at for at, _ in found]),
            pgvector.ints([each.start for _, each in found]),
            pgvector.ints([each.end for _, each in found]),
            pgvector.texts([each.heading for _, each in found]),
            pgvector.blobs([each.content_hash for _, each in found]),
            pgvector.Array(await self._vector_oid(), [each.encoded for _, each in found]),
        )
        return {"sent": usage.passages, **dict(zip(names, values, strict=True))}

    async def _vector_oid(self) -> int:
        """Return the oid of the type `vector`, which differs between databases."""
        if self._oid is None:
            self._oid = int(await self._rpc.value("vector_oid"))
        return self._oid

    # --- workers ---

    async def register(
        self, collection: Collection, run: int | None, lease: float, replaces: int | None = None
    ) -> Lease:
        """Register a worker, which takes over the leases of the worker `replaces`.

        Its jobs return to the queue `lease` seconds after its last heartbeat. If connections have
        sessions, that happens as soon as the session ends and releases its advisory lock.
        """
        has_session = self.connector.has_sessions
        values = {
            "collection": collection.id, "host": socket.gethostname(), "pid": os.getpid(),
            "has_session": has_session, "lease": lease, "run": run, "replaces": replaces,
        }  # fmt: skip
        if not has_session:
            worker = await self._rpc.value("register_worker", **values)
            return self._registered(Lease(worker, None), replaces)
        session = await self.connector.dedicated()
        try:
            row = await self.connector.fetch_on(session, query("register_worker"), values)
        except BaseException:
            await session.close()
            raise
        return self._registered(Lease(row["id"], session), replaces)

    def _registered(self, lease: Lease, replaces: int | None) -> Lease:
        if replaces is not None:
            self._leases.move(replaces, lease.worker)
        return lease

    async def heartbeat(
        self, lease: Lease, run: int | None, seconds: float, rate: float
    ) -> tuple[bool, str | None]:
        """Renew a lease for `seconds` and report the worker's `rate` in rows a second.

        A worker with a session sends it over that session, so that a lost session is noticed.

        Returns:
            Whether the lease was still held, and the state of the run.
        """
        if lease.session is None:
            return await super().heartbeat(lease, run, seconds, rate)
        values = {"worker": lease.worker, "run": run, "lease": seconds, "rate": rate}
        row = await self.connector.fetch_on(lease.session, query("heartbeat"), values)
        return row["alive"], row["run_state"]

    async def release_dead_workers(self, collection: Collection, worker: int | None = None) -> int:
        """Release the jobs of dead workers; return how many workers were dead.

        `worker` is the caller. It lives, even if it has lost its session without noticing.
        """
        return int(
            await self._rpc.value("release_dead_workers", collection=collection.id, worker=worker)
        )


@asynccontextmanager
async def open_store(conninfo: str, *, size: int = 6) -> AsyncIterator[Store]:
    """Open a store with up to `size` pooled connections, and close it at the end of the block.

    Raises:
        ConfigurationError: the connection string is malformed.
        DatabaseUnavailableError: the server cannot be reached, or refuses the login.

    """
    connector = Connector(conninfo, size=size)
    await connector.open()
    try:
        yield Store(connector)
    finally:
        await connector.aclose()
