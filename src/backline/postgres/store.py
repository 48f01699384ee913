"""The domain verbs over Postgres: enqueue, claim, complete, fail, coverage.

Every rule is a SQL function in schema `backline`; a verb calls one and gives its answer a type.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import repeat
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from psycopg.rows import DictRow

from backline import errors, pgvector
from backline.collections import choose, collection_of
from backline.postgres.connector import Connector
from backline.sql import queries, query
from backline.store import (
    NO_USAGE,
    DriftPage,
    KeywordsPage,
    Lease,
    LeasedBatch,
    NewVector,
    Page,
    ScannedRow,
    Usage,
    VerifiedPage,
    failed_row,
)
from backline.types import (
    Collection,
    Coverage,
    FailedAttempt,
    Failure,
    Job,
    LongText,
    Model,
    Outcome,
    RunRecord,
    SearchHit,
)

KEYWORDS_PAGE: Final = 2000


class Store:
    """The domain over one database."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self._oid: int | None = None

    @property
    def has_sessions(self) -> bool:
        """Whether a connection outlives a transaction, so that it can listen and show life."""
        return self.connector.has_sessions

    # --- collections ---

    async def collections(self) -> list[Collection]:
        """Every declared collection.

        Raises:
            NotMigratedError: the database has no Backline schema.
            ExtensionMissingError: pgvector was there, and is gone.

        """
        migrated = await self.connector.fetch_one(query("is_migrated"))
        if not migrated["migrated"]:
            raise errors.NotMigratedError
        if not migrated["has_vector"]:
            raise errors.ExtensionMissingError(
                "pgvector was removed from this database, and with it every vector. Enable it "
                "again, declare the collections anew (backline drop, backline add), and backfill."
            )
        return [collection_of(row) for row in await self.connector.fetch(query("collections"))]

    async def collection(self, name: str | None = None) -> Collection:
        """The collection of that name, or, without a name, the only one or `music_knowledge`.

        Raises:
            CollectionNotFoundError: there is none of that name, or several to choose from.

        """
        return choose(await self.collections(), name)

    async def find_table(self, name: str) -> DictRow:
        """Oid, schema and name of a table.

        Raises:
            TableNotFoundError: there is none; the message lists those that there are.

        """
        rows = await self.connector.fetch(query("find_table"), {"table": name})
        if rows:
            return rows[0]
        near = await self.connector.fetch(query("tables_like"))
        tables = ", ".join(row["name"] for row in near) or "none"
        raise errors.TableNotFoundError(
            f"There is no table {name!r} in this database. Tables: {tables}."
        )

    async def embedding_column(self, table: int, column: str) -> tuple[str, int | None] | None:
        """Type and dimensions of a column, None where it does not exist."""
        rows = await self.connector.fetch(
            query("embedding_column"), {"table": table, "column": column}
        )
        return (rows[0]["type"], rows[0]["dimensions"]) if rows else None

    async def add_collection(
        self, name: str, table: int, *, key: str | None, template: str, column: str, model: Model,
        column_type: str = "vector", long_text: LongText = "truncate",
    ) -> int:  # fmt: skip
        """Declare a table for embedding: its column if missing, its triggers, its entry."""
        async with self.connector.transaction() as transaction:
            await transaction.execute("set local lock_timeout = '5s'")
            rows = await transaction.fetch(
                query("add_collection"),
                {
                    "name": name, "table": table, "key": key, "template": template,
                    "column": column, "column_type": column_type, "long_text": long_text,
                    **_identity(model),
                },
            )  # fmt: skip
        added = int(rows[0]["id"])
        await self.recount(added)
        return added

    async def drop_collection(self, collection: Collection, *, drop_column: bool) -> None:
        async with self.connector.transaction() as transaction:
            await transaction.execute("set local lock_timeout = '5s'")
            await transaction.execute(
                query("drop_collection"),
                {"collection": collection.id, "drop_column": drop_column},
            )

    async def set_model(self, collection: Collection, model: Model) -> None:
        await self.connector.execute(
            query("set_model"), {"collection": collection.id, **_identity(model)}
        )

    # --- what is there ---

    async def coverage(self, collection: Collection) -> Coverage:
        """What is embedded, from the ledger: cheap at any size."""
        row = await self.connector.fetch_one(query("coverage"), {"collection": collection.id})
        return Coverage(**row["coverage"])

    async def recount(self, collection: int, *, correct: bool = True) -> dict[str, int]:
        """Set the ledger right by counting; returns by how much each measure is off."""
        row = await self.connector.fetch_one(
            query("recount"), {"collection": collection, "correct": correct}
        )
        corrected: dict[str, int] = row["corrected"]
        return corrected

    async def compact(self, collection: Collection) -> None:
        await self.connector.execute(query("compact_counters"), {"collection": collection.id})

    async def trim_cache(self, most_bytes: int) -> int:
        """Drop the oldest vectors of the cache that are over the bound; returns how many."""
        row = await self.connector.fetch_one(query("trim_vectors"), {"bytes": most_bytes})
        return int(row["dropped"])

    async def hnsw_indexes(self, collection: Collection) -> list[str]:
        """The HNSW indexes to which every vector that is stored is added."""
        rows = await self.connector.fetch(query("hnsw_indexes"), {"collection": collection.id})
        return [row["name"] for row in rows]

    async def verify_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> VerifiedPage:
        row = await self.connector.fetch_one(
            query("verify_page"), {"collection": collection.id, "after": after, "limit": limit}
        )
        found = [(item["key"], item["problem"]) for item in row["problems"]]
        return VerifiedPage(row["scanned"], row["embedded"], row["blank"], found, row["last_key"])

    async def now(self) -> datetime:
        """The time of the database, the only clock that decides anything."""
        row = await self.connector.fetch_one(query("now"))
        moment: datetime = row["now"]
        return moment

    async def search_dense(
        self, collection: Collection, vector: NDArray[np.float32], limit: int
    ) -> list[SearchHit]:
        """The rows nearest to a float32 vector of shape (dimensions,), by cosine similarity."""
        rows = await self.connector.fetch(
            query("search_dense"),
            {"collection": collection.id, "query": pgvector.reals(vector), "limit": limit},
        )
        return [
            SearchHit(
                r["key"], r["similarity"], {"dense": r["similarity"]}, r["content"], r["record"]
            )
            for r in rows
        ]

    async def search_rows(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows of `backline.search`, for the values that the statement names."""
        vector = values["vector"]
        sent = {**values, "vector": None if vector is None else pgvector.reals(vector)}
        return await self.connector.fetch(queries("search.sql")["search"], sent)

    async def needs_keywords(self, collection: Collection) -> bool:
        """Return whether rows are missing from the keyword index, so that it must be built."""
        row = await self.connector.fetch_one(
            queries("search.sql")["keyword_index"], {"collection": collection.id}
        )
        return not row["built"]

    async def build_keywords_page(
        self, collection: Collection, after: str | None, *, wait: bool
    ) -> KeywordsPage:
        """Index the keywords of one page of rows, waiting for locked rows only if `wait`."""
        row = await self.connector.fetch_one(
            queries("search.sql")["build_keywords_page"],
            {"collection": collection.id, "after": after, "limit": KEYWORDS_PAGE, "wait": wait},
        )
        return KeywordsPage(row["scanned"], row["last_key"], row["scanned"] < KEYWORDS_PAGE)

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

    async def scan_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> list[ScannedRow]:
        """One page of rows with their texts, for a preview that enqueues nothing."""
        rows = await self.connector.fetch(
            query("scan_page"), {"collection": collection.id, "after": after, "limit": limit}
        )
        return [
            ScannedRow(r["key"], r["due"], r["content"], r["content_hash"], r["cached"])
            for r in rows
        ]

    # --- reconcile ---

    async def trigger_problems(self, collection: Collection) -> list[tuple[str, str]]:
        """(name, what is wrong) of the triggers that do not fire."""
        rows = await self.connector.fetch(query("trigger_problems"), {"collection": collection.id})
        return [(row["name"], row["problem"]) for row in rows]

    async def install_triggers(self, collection: Collection) -> None:
        """Make the triggers that notice edits anew."""
        async with self.connector.transaction() as transaction:
            await transaction.execute("set local lock_timeout = '5s'")
            await transaction.execute(query("install_triggers"), {"collection": collection.id})

    async def reconcile_page(
        self, collection: Collection, after: str | None, limit: int, *, repair: bool
    ) -> DriftPage:
        """Find rows that need work which nobody would do, and with `repair` enqueue them.

        Raises:
            ContentionError: somebody's open transaction holds one of the rows; nothing is done.

        """
        row = await self._reconcile(
            "reconcile_page",
            {"collection": collection.id, "after": after, "limit": limit, "repair": repair},
        )
        found = [(item["problem"], item["key"]) for item in row["problems"]]
        return DriftPage(row["scanned"], found, row["last_key"])

    async def reconcile_orphans(
        self, collection: Collection, of: str, after: str | None, limit: int, *, repair: bool
    ) -> DriftPage:
        """Find `stamps`, `jobs` or `failures` of rows that do not exist; `repair` removes them."""
        row = await self._reconcile(
            "reconcile_orphans",
            {"collection": collection.id, "of": of, "after": after, "limit": limit,
             "repair": repair},
        )  # fmt: skip
        return DriftPage(row["scanned"], [(of, key) for key in row["keys"]], row["last_key"])

    async def _reconcile(self, verb: str, values: Mapping[str, Any]) -> DictRow:
        async with self.connector.transaction() as transaction:
            await transaction.execute("set local lock_timeout = '200ms'")
            return (await transaction.fetch(query(verb), values))[0]

    # --- jobs ---

    async def enqueue_page(self, collection: Collection, after: str | None, limit: int) -> Page:
        """Enqueue what is due in the page of rows after key `after`.

        A user's uncommitted insert of the same row would make this wait for their transaction, so
        it gives up after 200 ms and is called again.
        """
        async with self.connector.transaction() as transaction:
            # A lost claim or page costs nothing, so neither waits for the disk.
            await transaction.execute("set local synchronous_commit = off")
            await transaction.execute("set local lock_timeout = '200ms'")
            [row] = await transaction.fetch(
                query("enqueue_page"),
                {"collection": collection.id, "after": after, "limit": limit},
            )
        return Page(row["scanned"], row["due"], row["last_key"])

    async def claim(self, collection: Collection, worker: int, limit: int) -> list[Job]:
        """Lease up to `limit` jobs; an empty list means that nothing is due at this moment."""
        async with self.connector.transaction() as transaction:
            await transaction.execute("set local synchronous_commit = off")
            rows = await transaction.fetch_tuples(
                query("claim"),
                {
                    "collection": collection.id,
                    "worker": worker,
                    "limit": limit,
                    "model": collection.model_id,
                },
            )
        return [Job._make(row) for row in rows]

    async def claim_batch(
        self, collection: Collection, worker: int, run: int | None, after: str | None, limit: int,
        known: Iterable[int] = (),
    ) -> LeasedBatch:  # fmt: skip
        """Scan the page of rows after key `after` and lease what is due in it.

        `known` are the leases of the pages that the worker is still at: its others are ended. A
        user's uncommitted edit of a row that is due would make this wait for their transaction, so
        it gives up after 200 ms and is called again.
        """
        async with self.connector.transaction() as transaction:
            await transaction.execute("set local synchronous_commit = off")
            await transaction.execute("set local lock_timeout = '200ms'")
            [(scanned, last, lease, *columns)] = await transaction.fetch_tuples(
                query("claim_batch"),
                {
                    "collection": collection.id, "worker": worker, "run": run, "after": after,
                    "limit": limit, "model": collection.model_id, "known": list(known),
                },
            )  # fmt: skip
        if columns[0] is None:
            return LeasedBatch(scanned, last, [])
        rows = zip(*columns, repeat(0), repeat(lease), strict=False)
        return LeasedBatch(scanned, last, list(map(Job._make, rows)))

    async def end_finished_batches(self, worker: int, known: Iterable[int]) -> None:
        """End the pages of a worker but for those that it is still at."""
        await self.connector.execute(
            query("end_finished_batches"), {"worker": worker, "leases": list(known)}
        )

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
        """Store vectors where the row's text is unchanged, and end the jobs; one transaction.

        Returns:
            (key, outcome) of the rows that were not written.
        """
        values = {
            "collection": collection.id, "worker": worker, "run": run, "cache": cache,
            "keys": pgvector.texts([row.key for row in rows]),
            "actions": pgvector.texts([row.action for row in rows]),
            "hashes": pgvector.blobs([row.content_hash for row in rows]),
            "vectors": pgvector.Array(await self._vector_oid(), [row.element for row in rows]),
            "batches": usage.batches, "tokens": usage.tokens, "truncated": usage.truncated,
            "model": collection.model_id,
            "leases": pgvector.bigints([row.lease for row in rows]),
            "long": [row.long for row in rows] if any(row.long for row in rows) else None,
        }  # fmt: skip
        left = await self.connector.fetch(query("complete"), values)
        return [(row["key"], row["outcome"]) for row in left]

    async def _vector_oid(self) -> int:
        """The type `vector` of this database; it is another number in each."""
        if self._oid is None:
            self._oid = int((await self.connector.fetch_one(query("vector_oid")))["oid"])
        return self._oid

    async def confirm(
        self, collection: Collection, worker: int, run: int | None, rows: Sequence[NewVector],
        call: UUID, batches: int = 1,
    ) -> list[tuple[str, str]]:  # fmt: skip
        """End the jobs of rows that somebody else embedded, as far as their vectors are stored.

        Returns:
            (key, outcome) of the others: those of `complete`, or "unstored" where the text is
            unchanged and no vector of it is there.
        """
        values = {
            "call": call, "collection": collection.id, "worker": worker, "run": run,
            "keys": [row.key for row in rows], "hashes": [row.content_hash for row in rows],
            "leases": [row.lease for row in rows], "batches": batches,
            "model": collection.model_id,
        }  # fmt: skip
        row = await self.connector.fetch_one(query("confirm"), values)
        return [(key, outcome) for key, outcome in row["outcomes"]]

    async def fail(
        self, collection: Collection, worker: int, run: int | None, rows: Sequence[FailedAttempt]
    ) -> list[str]:
        """Record failed attempts; returns the keys that somebody is editing: report them again."""
        payload = [failed_row(row) for row in rows]
        row = await self.connector.fetch_one(
            query("fail"),
            {
                "collection": collection.id, "worker": worker, "run": run,
                "rows": json.dumps(payload),
            },
        )  # fmt: skip
        busy: list[str] = row["busy"]
        return busy

    async def release(self, worker: int, keys: Sequence[str] | None = None) -> int:
        """Give leased jobs back, all or some; no attempt is counted."""
        row = await self.connector.fetch_one(
            query("release"), {"worker": worker, "keys": None if keys is None else list(keys)}
        )
        return int(row["released"])

    async def outstanding(
        self, collection: Collection, before: datetime
    ) -> tuple[bool, float | None]:
        """Whether work enqueued up to `before` is open, and in how many seconds some is due."""
        row = await self.connector.fetch_one(
            query("outstanding"), {"collection": collection.id, "before": before}
        )
        return row["remain"], row["due_in"]

    # --- workers ---

    async def register(
        self, collection: Collection, run: int | None, lease: float, replaces: int | None = None
    ) -> Lease:
        """Make a worker whose leases live as long as it does; it may take over from `replaces`."""
        values = {
            "collection": collection.id, "host": socket.gethostname(), "pid": os.getpid(),
            "has_session": self.connector.has_sessions, "lease": lease, "run": run,
            "replaces": replaces,
        }  # fmt: skip
        if not self.connector.has_sessions:
            row = await self.connector.fetch_one(query("register_worker"), values)
            return Lease(row["id"], None)
        session = await self.connector.dedicated()
        try:
            row = await self.connector.fetch_on(session, query("register_worker"), values)
        except BaseException:
            await session.close()
            raise
        return Lease(row["id"], session)

    async def heartbeat(
        self, lease: Lease, run: int | None, seconds: float, rate: float
    ) -> tuple[bool, str | None]:
        """Renew a lease; answers whether it still held, and the state of the run.

        Goes over the worker's own session, so that a lost session is noticed.
        """
        values = {"worker": lease.worker, "run": run, "lease": seconds, "rate": rate}
        if lease.session is None:
            row = await self.connector.fetch_one(query("heartbeat"), values)
        else:
            row = await self.connector.fetch_on(lease.session, query("heartbeat"), values)
        return row["alive"], row["run_state"]

    async def unregister(self, lease: Lease) -> None:
        """End a worker and give back what it holds."""
        try:
            await self.connector.execute(query("unregister_worker"), {"worker": lease.worker})
        finally:
            await self.close_session(lease)

    async def close_session(self, lease: Lease) -> None:
        """Close the session of a lease, and with it give up the lock that shows its life."""
        if lease.session is not None:
            await lease.session.close()

    async def release_dead_workers(self, collection: Collection, worker: int | None = None) -> int:
        """Free what dead workers held; returns how many were found dead.

        `worker` is who asks: it lives, also where it has lost its session and not noticed yet.
        """
        row = await self.connector.fetch_one(
            query("release_dead_workers"), {"collection": collection.id, "worker": worker}
        )
        return int(row["dead"])

    # --- runs ---

    async def start_run(self, collection: Collection, settings: Mapping[str, Any]) -> int:
        row = await self.connector.fetch_one(
            query("start_run"),
            {"collection": collection.id, "settings": json.dumps(dict(settings))},
        )
        return int(row["id"])

    async def finish_run(self, run: int, state: str, report: Mapping[str, Any]) -> None:
        await self.connector.execute(
            query("finish_run"), {"run": run, "state": state, "report": json.dumps(dict(report))}
        )

    async def cancel_run(self, run: int) -> bool:
        """Ask a running run to stop; False where it is not running."""
        rows = await self.connector.fetch(query("cancel_run"), {"run": run})
        return bool(rows) and rows[0]["state"] is not None

    async def runs(
        self, collection: Collection | None = None, run: int | None = None, limit: int = 20
    ) -> list[RunRecord]:
        """The newest runs, newest first."""
        rows = await self.connector.fetch(
            query("runs"),
            {"collection": collection.id if collection else None, "run": run, "limit": limit},
        )
        return [RunRecord(**row) for row in rows]

    # --- dead letters ---

    async def failures(self, collection: Collection, page: int = 1000) -> AsyncIterator[Failure]:
        """Every dead letter, by key, read in keyset pages."""
        after = ""
        while True:
            rows = await self.connector.fetch(
                query("failures"), {"collection": collection.id, "after": after, "limit": page}
            )
            for row in rows:
                yield Failure(**row)
            if len(rows) < page:
                return
            after = rows[-1]["key"]

    async def run_failures(self, run: int, limit: int = 20) -> list[tuple[str, str, str]]:
        """(key, kind, error) of the dead letters of one run."""
        rows = await self.connector.fetch(query("run_failures"), {"run": run, "limit": limit})
        return [(row["key"], row["kind"], row["error"]) for row in rows]

    async def retry_failures(self, collection: Collection, keys: Sequence[str] | None) -> int:
        """Send dead letters, all or some, through the queue again; returns how many."""
        return await self._on_failures("retry_failures", collection, keys)

    async def drop_failures(self, collection: Collection, keys: Sequence[str] | None) -> int:
        """Forget dead letters, all or some; returns how many."""
        return await self._on_failures("drop_failures", collection, keys)

    async def _on_failures(
        self, verb: str, collection: Collection, keys: Sequence[str] | None
    ) -> int:
        row = await self.connector.fetch_one(
            query(verb),
            {"collection": collection.id, "keys": None if keys is None else list(keys)},
        )
        return int(row["count"])


def _identity(model: Model) -> dict[str, Any]:
    return {
        "provider": model.provider,
        "model": model.name,
        "revision": model.revision,
        "dimensions": model.dimensions,
    }


@asynccontextmanager
async def open_store(conninfo: str, *, size: int = 6) -> AsyncIterator[Store]:
    """A store over a connected database; connects once, so that a wrong URL is found at once."""
    connector = Connector(conninfo, size=size)
    await connector.open()
    try:
        yield Store(connector)
    finally:
        await connector.aclose()
