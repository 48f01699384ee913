"""The indexes behind search: keywords for every table, HNSW for large ones; and their recall."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import psycopg
from psycopg.rows import DictRow

from backline import errors
from backline.postgres.blockers import naming_blockers
from backline.postgres.connector import Transaction
from backline.postgres.sqlstate import translate
from backline.postgres.store import Store
from backline.postgres.watch import WatchedConnection
from backline.sql import queries
from backline.store import JobStore
from backline.types import Collection

ROWS_WORTH_AN_INDEX: Final = 10_000
"""Below this, comparing every row takes a few milliseconds and finds every neighbour."""

LOCK_TIMEOUT: Final = "10s"
_ROUNDING: Final = 1e-6  # of a float32 distance
_MIN_BUILD_MEMORY: Final = 64 << 20
_MAX_BUILD_MEMORY: Final = 2 << 30

KEYWORDS_SECONDS: Final = 30.0
"""Interval at which a worker looks for rows that the keyword index lacks."""

OnPage = Callable[[int], None]
"""Called after each page of the keyword index, with the rows scanned so far."""

Notice = Callable[[str], None]
"""Called with one line of text."""

VectorIndexState: TypeAlias = Literal["built", "in place", "not needed", "not possible"]
"""Result of ensuring a vector index. "not needed" is below ROWS_WORTH_AN_INDEX embedded rows, "not
possible" above 4,000 dimensions. In both cases a search compares every row."""


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The HNSW index of a collection; `seconds` is the duration of the build."""

    name: str
    state: VectorIndexState
    rows: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class KeywordIndex:
    """The keyword index of a collection."""

    language: str
    text_template: str
    built: bool
    documents: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Indexes:
    """Both indexes of a collection."""

    vectors: VectorIndex
    keywords: KeywordIndex


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of the nearest rows that an index search returns: mean and worst of all queries."""

    queries: int
    k: int
    mean: float
    worst: float


async def ensure_index(
    store: Store,
    collection: Collection,
    *,
    rebuild: bool = False,
    smallest: int = ROWS_WORTH_AN_INDEX,
    on_page: OnPage | None = None,
) -> Indexes:
    """Build both indexes of a collection where they are missing.

    Reads and writes continue meanwhile: the vector index is built concurrently, the keyword index
    page by page.

    Args:
        store: the database.
        collection: the collection to index.
        rebuild: build both indexes again.
        smallest: embedded rows below which a table gets no vector index.
        on_page: called with the rows scanned so far, after each page of the keyword index.

    Raises:
        ContentionError: another transaction held the table for too long. It may leave an invalid
            index, which Postgres ignores and the next call replaces.
    """
    started = time.monotonic()
    if rebuild:
        await set_keywords(store, collection)
    await ensure_keywords(store, collection, on_page=on_page)
    seconds = time.monotonic() - started
    keywords = replace(await keyword_index(store, collection), seconds=seconds)
    return Indexes(await ensure_vectors(store, collection, smallest, rebuild=rebuild), keywords)


async def note_missing_keywords(store: JobStore, collection: Collection, notice: Notice) -> None:
    """Say that words find only some rows, if the keyword index is not complete."""
    if await store.needs_keywords(collection):
        notice(
            f"The keyword index of {collection.name} is not complete: words are found only in the "
            "rows that it has. backfill and sync complete it, and so does: "
            f"{errors.command('index', collection.name)}"
        )


async def complete_keywords(store: JobStore, collection: Collection) -> None:
    """Index the keywords that are missing. An error of the index must not stop a worker."""
    with suppress(errors.BacklineError):
        await ensure_keywords(store, collection)


async def keep_keywords(store: JobStore, collection: Collection) -> None:
    """Complete the keyword index whenever rows are missing, until cancelled."""
    while True:
        await complete_keywords(store, collection)
        await asyncio.sleep(KEYWORDS_SECONDS)


# --- keywords -------------------------------------------------------------------------------------


async def keyword_index(store: Store, collection: Collection) -> KeywordIndex:
    """Return the settings and the progress of the keyword index."""
    row = await store.connector.fetch_one(
        queries("search.sql")["keyword_index"], {"collection": collection.id}
    )
    return KeywordIndex(**row)


async def set_keywords(
    store: Store,
    collection: Collection,
    *,
    template: str | None = None,
    language: str | None = None,
    language_column: str | None = None,
) -> None:
    """Set the text and the language of the keyword index, which empties the index.

    Raises:
        UsageError: Postgres has no such text search configuration, or the template does not parse.
        ColumnNotFoundError: the template names a column that the table does not have.
    """
    if language is not None:
        await require_language(store, language)
    async with store.connector.transaction() as transaction:
        await transaction.execute("set local lock_timeout = '10s'")
        await transaction.execute(
            queries("search.sql")["set_keywords"],
            {
                "collection": collection.id,
                "template": template,
                "language": language,
                "language_column": language_column,
            },
        )


async def require_language(store: Store, language: str) -> None:
    """Raise a UsageError unless Postgres has this text search configuration."""
    rows = await store.connector.fetch(queries("search.sql")["text_search_configurations"])
    languages = [str(row["name"]) for row in rows]
    if language.removeprefix("pg_catalog.") not in languages:
        raise errors.UsageError(
            f"There is no language {language!r} in this Postgres. "
            f"Its languages: {', '.join(languages)}."
        )


async def ensure_keywords(
    store: JobStore,
    collection: Collection,
    *,
    on_page: OnPage | None = None,
) -> bool:
    """Index the keywords of every row that is not indexed yet, over either transport.

    Returns:
        Whether anything was missing.
    """
    if not await store.needs_keywords(collection):
        return False
    while not await _index_all(store, collection, on_page=on_page):
        pass  # rows were inserted behind the scan
    return True


async def _index_all(store: JobStore, collection: Collection, *, on_page: OnPage | None) -> bool:
    """Scan the table once; return whether every row is indexed now."""
    after, scanned, last = None, 0, False
    while not last:
        page = await store.build_keywords_page(collection, after)
        after, scanned, last = page.last_key, scanned + page.scanned, page.last
        if on_page is not None:
            on_page(scanned)
    return await store.finish_keywords(collection)


# --- vectors --------------------------------------------------------------------------------------


async def ensure_vectors(
    store: Store,
    collection: Collection,
    smallest: int = ROWS_WORTH_AN_INDEX,
    *,
    rebuild: bool = False,
) -> VectorIndex:
    """Build the HNSW index of a table with at least `smallest` embedded rows that has none."""
    row = await store.connector.fetch_one(
        queries("search.sql")["vector_index"], {"collection": collection.id}
    )
    name, rows = row["name"], row["rows"]
    if row["present"] and not rebuild:
        return VectorIndex(name, "in place", rows)
    if rows < smallest:
        return VectorIndex(name, "not needed", rows)
    if not row["possible"]:
        return VectorIndex(name, "not possible", rows)
    started = time.monotonic()
    await _build(store, row)
    return VectorIndex(name, "built", rows, time.monotonic() - started)


async def _build(store: Store, row: DictRow) -> None:
    """Build the index over a dedicated connection, with memory for the whole graph.

    Through a transaction pooler the server's own settings apply. A SET would not reach the build,
    which cannot run in a transaction, and would leak into the pooler's next client.
    """
    session = await store.connector.dedicated()
    try:
        async with naming_blockers(store.connector) as waiting:
            waiting.backend = session.backend
            await _Build(store, session, row).run()
    finally:
        await session.close()


class _Build:
    """One build of an HNSW index; `row` is that of `backline.vector_index`."""

    def __init__(self, store: Store, session: WatchedConnection, row: DictRow) -> None:
        self._store = store
        self._session = session
        self._create: list[str] = row["make"]  # one for each partition, then the whole table
        self._drop: list[str] = row["unmake"]
        self._memory = min(_MAX_BUILD_MEMORY, max(_MIN_BUILD_MEMORY, int(row["bytes"] * 1.2)))

    async def run(self) -> None:
        if self._store.connector.has_sessions:
            await self._execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
            await self._execute("set statement_timeout = 0")
            await self._execute(f"set maintenance_work_mem = {self._memory >> 10}")
        # An interrupted build leaves an invalid index that occupies the name.
        await self._execute(*self._drop)
        try:
            await self._execute(*self._create)
        except errors.StatementTimeoutError as error:
            await self._execute(*self._drop)
            raise errors.StatementTimeoutError(
                f"{error} The index takes longer than this connection may: build it with the "
                "direct connection or the session pooler (port 5432) in DATABASE_URL: "
                "backline index."
            ) from error
        except errors.DatabaseFullError:
            await self._execute(*self._drop)
            if not self._store.connector.has_sessions:
                raise
            await self._create_in_one_process()
        except (errors.ContentionError, asyncio.CancelledError):
            # An invalid index slows the writes of the table down and serves no search.
            with suppress(errors.DatabaseError):
                await self._execute(*self._drop)
            raise

    async def _create_in_one_process(self) -> None:
        """Build without parallel workers, which share memory in /dev/shm; containers limit it."""
        await self._execute("set max_parallel_maintenance_workers = 0")
        await self._execute(*self._create)

    async def _execute(self, *statements: str) -> None:
        try:
            for statement in statements:
                await Transaction(self._session).execute(statement)
        except psycopg.Error as error:
            raise translate(error, self._store.connector.where) from error


# --- recall ---------------------------------------------------------------------------------------


async def recall(store: Store, collection: Collection, samples: int = 100, k: int = 10) -> Recall:
    """Compare the results of index searches with those of comparing every row.

    The queries are stored vectors, and the match of each with itself is not counted. A row as near
    as the last of the k nearest counts as a match, because equal texts are interchangeable.
    """
    vectors = await store.connector.fetch(
        queries("search.sql")["sample_vectors"], {"collection": collection.id, "count": samples}
    )
    shares = []
    for row in vectors:
        approximate = await _distances(store, collection, row["vector"], k + 1, exact=False)
        truth = await _distances(store, collection, row["vector"], k + 1, exact=True)
        shares.append(share_found(approximate[1:], truth[1:]))
    if not shares:
        return Recall(0, k, 1.0, 1.0)
    return Recall(len(shares), k, sum(shares) / len(shares), min(shares))


def share_found(approximate: Sequence[float], truth: Sequence[float]) -> float:
    """Return the share of the nearest rows that a search returned, by the distances of both."""
    if not truth:
        return 1.0
    return sum(distance <= max(truth) + _ROUNDING for distance in approximate) / len(truth)


async def _distances(
    store: Store, collection: Collection, vector: list[float], limit: int, *, exact: bool
) -> list[float]:
    rows = await store.connector.fetch(
        queries("search.sql")["nearest"],
        {"collection": collection.id, "vector": vector, "limit": limit, "exact": exact},
    )
    return [row["distance"] for row in rows]
