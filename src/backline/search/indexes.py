"""The indexes behind search: keywords for every table, HNSW for large ones; and its recall."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from backline import errors
from backline.postgres.connector import Transaction
from backline.postgres.sqlstate import translate
from backline.postgres.store import Store
from backline.sql import queries
from backline.types import Collection

# Below this, comparing every row takes a few milliseconds and finds every neighbour.
ROWS_WORTH_AN_INDEX: Final = 10_000
PAGE: Final = 2000
ROUNDING: Final = 1e-6  # of a float32 distance
LOCK_TIMEOUT: Final = "10s"
SMALLEST_MEMORY: Final = 64 << 20
LARGEST_MEMORY: Final = 2 << 30

OnPage = Callable[[int], None]


VectorIndexState: TypeAlias = Literal["built", "in place", "not needed", "not possible"]
"""What became of a vector index: "not needed" below ROWS_WORTH_AN_INDEX embedded rows, "not
possible" over 4,000 dimensions; both leave a search that compares every row."""


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The HNSW index of a collection; `seconds` is what building it took."""

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
    """How many of the truly nearest rows a search by the index finds, on average and at worst."""

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
    """Make both indexes where they are missing; call it at the end of a backfill.

    Nobody's reads or writes wait: the vector index is made concurrently, the keyword index page by
    page. Tables of fewer than `smallest` embedded rows need no vector index. `rebuild` makes both
    anew; `on_page` is told the rows that the keyword index has walked.

    Raises:
        ContentionError: another transaction held the table for too long. A half-made index may be
            left, which Postgres does not use, and the next call replaces.
    """
    keywords = await ensure_keywords(store, collection, rebuild=rebuild, on_page=on_page)
    return Indexes(await ensure_vectors(store, collection, smallest, rebuild=rebuild), keywords)


# --- keywords -------------------------------------------------------------------------------------


async def keyword_index(store: Store, collection: Collection) -> KeywordIndex:
    """What the keyword index is and how far it has come."""
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
) -> None:
    """Choose which text is indexed for keywords, and in which language. The index starts anew.

    Raises:
        UsageError: Postgres has no such text search configuration, or the template does not read.
        ColumnNotFoundError: the template names a column that the table does not have.
    """
    if language is not None:
        rows = await store.connector.fetch(queries("search.sql")["text_search_configurations"])
        known = [str(row["name"]) for row in rows]
        if language.removeprefix("pg_catalog.") not in known:
            raise errors.UsageError(
                f"There is no language {language!r} in this Postgres. It knows: {', '.join(known)}."
            )
    async with store.connector.transaction() as transaction:
        await transaction.execute("set local lock_timeout = '10s'")
        await transaction.execute(
            queries("search.sql")["set_keywords"],
            {"collection": collection.id, "template": template, "language": language},
        )


async def ensure_keywords(
    store: Store, collection: Collection, *, rebuild: bool = False, on_page: OnPage | None = None
) -> KeywordIndex:
    """Index the keywords of every row that is not in the index yet."""
    started = time.monotonic()
    if rebuild:
        await set_keywords(store, collection)
    if not (await keyword_index(store, collection)).built:
        wait = False
        while not await _walked(store, collection, wait=wait, on_page=on_page):
            wait = True  # for whoever was editing rows that the walk left out, should they give up
        await _compact(store, collection)
    found = await keyword_index(store, collection)
    return KeywordIndex(
        found.language,
        found.text_template,
        found.built,
        found.documents,
        time.monotonic() - started,
    )


async def _compact(store: Store, collection: Collection) -> None:
    """Merge the walk's small blocks, and let index-only scans see that they are merged."""
    await store.connector.execute(
        queries("search.sql")["compact_keywords"], {"collection": collection.id}
    )
    for table in ("postings", "documents"):
        await store.connector.execute(f"vacuum (analyze) backline.{table}")


async def _walked(
    store: Store, collection: Collection, *, wait: bool, on_page: OnPage | None
) -> bool:
    """Scan the table once; answers whether every row is indexed now."""
    after, walked = None, 0
    while True:
        page = await store.connector.fetch_one(
            queries("search.sql")["build_keywords_page"],
            {"collection": collection.id, "after": after, "limit": PAGE, "wait": wait},
        )
        after, walked = page["last_key"], walked + page["scanned"]
        if on_page is not None:
            on_page(walked)
        if page["scanned"] < PAGE:
            break
    row = await store.connector.fetch_one(
        queries("search.sql")["keywords_are_built"], {"collection": collection.id}
    )
    return bool(row["built"])


# --- vectors --------------------------------------------------------------------------------------


async def ensure_vectors(
    store: Store,
    collection: Collection,
    smallest: int = ROWS_WORTH_AN_INDEX,
    *,
    rebuild: bool = False,
) -> VectorIndex:
    """Make the HNSW index where the table is large enough for one and has none."""
    there = await store.connector.fetch_one(
        queries("search.sql")["vector_index"], {"collection": collection.id}
    )
    name, rows = there["name"], there["rows"]
    if there["present"] and not rebuild:
        return VectorIndex(name, "in place", rows)
    if rows < smallest:
        return VectorIndex(name, "not needed", rows)
    if not there["possible"]:
        return VectorIndex(name, "not possible", rows)
    started = time.monotonic()
    await _build(store, there)
    return VectorIndex(name, "built", rows, time.monotonic() - started)


async def _build(store: Store, there: DictRow) -> None:
    """Make the index on a connection of its own, in memory that holds the whole graph.

    Through a transaction pooler the database's own limits hold: a setting would not reach the
    build, which cannot be in a transaction, and would stay with whoever gets the connection next.
    """
    session = await store.connector.dedicated()
    memory = min(LARGEST_MEMORY, max(SMALLEST_MEMORY, int(there["bytes"] * 1.2))) >> 10
    settings = (
        f"set lock_timeout = '{LOCK_TIMEOUT}'",
        "set statement_timeout = 0",
        f"set maintenance_work_mem = {memory}",
    )
    try:
        for setting in settings if store.connector.has_sessions else ():
            await _execute(store, session, setting)
        # What an interrupted build left behind is invalid, and would keep the name.
        await _execute(store, session, there["unmake"])
        await _make(store, session, there)
    finally:
        await session.close()


async def _make(store: Store, session: AsyncConnection[DictRow], there: DictRow) -> None:
    try:
        await _execute(store, session, there["make"])
    except errors.StatementTimeoutError as error:
        await _execute(store, session, there["unmake"])
        raise errors.StatementTimeoutError(
            f"{error} The index takes longer than this connection may: build it with the direct "
            "connection or the session pooler (port 5432) in DATABASE_URL: backline index."
        ) from error
    except errors.DatabaseFullError:
        # Parallel builds share memory through /dev/shm, which containers keep small.
        await _execute(store, session, there["unmake"])
        if not store.connector.has_sessions:
            raise
        await _execute(store, session, "set max_parallel_maintenance_workers = 0")
        await _execute(store, session, there["make"])
    except errors.ContentionError:
        with suppress(errors.ContentionError):
            await _execute(store, session, there["unmake"])
        raise


async def _execute(store: Store, session: AsyncConnection[DictRow], statement: str) -> None:
    try:
        await Transaction(session).execute(statement)
    except psycopg.Error as error:
        raise translate(error, store.connector.where) from error


async def recall(store: Store, collection: Collection, samples: int = 100, k: int = 10) -> Recall:
    """Compare what a search by the index finds with what comparing every row finds.

    The queries are stored vectors; that each of them finds itself is not counted. Rows as near as
    the last of the truly nearest count as found, for of equal texts any will do.
    """
    vectors = await store.connector.fetch(
        queries("search.sql")["sample_vectors"], {"collection": collection.id, "count": samples}
    )
    shares = []
    for row in vectors:
        found = await _distances(store, collection, row["vector"], k + 1, exact=False)
        truth = await _distances(store, collection, row["vector"], k + 1, exact=True)
        shares.append(share_found(found[1:], truth[1:]))
    if not shares:
        return Recall(0, k, 1.0, 1.0)
    return Recall(len(shares), k, sum(shares) / len(shares), min(shares))


def share_found(found: Sequence[float], truth: Sequence[float]) -> float:
    """The share of the nearest rows that were found, by the distances of both."""
    if not truth:
        return 1.0
    return sum(distance <= max(truth) + ROUNDING for distance in found) / len(truth)


async def _distances(
    store: Store, collection: Collection, vector: list[float], limit: int, *, exact: bool
) -> list[float]:
    rows = await store.connector.fetch(
        queries("search.sql")["nearest"],
        {"collection": collection.id, "vector": vector, "limit": limit, "exact": exact},
    )
    return [row["distance"] for row in rows]
