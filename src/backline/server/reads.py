"""Read-only queries of the server: pages, columns, figures, and the state of single rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias

from psycopg import sql
from psycopg.rows import DictRow

from backline import pgvector
from backline.postgres.store import Store
from backline.server import schemas
from backline.sql import queries
from backline.types import Action, Collection, Coverage, Failure

# Looking up this many pending rows one by one takes about 20 ms.
MAX_LOOKUPS: Final = 10_000


RowAction: TypeAlias = Action | Literal["changed"]
"""What a row sent by a client needs; `backline.inspect` in the SQL schema defines each action."""


class RowState(NamedTuple):
    """What a row needs, and its key as the table writes it ('7' for '007'); None if it is gone."""

    action: RowAction
    key: str | None


def query(name: str) -> str:
    """Return one statement of server.sql."""
    return queries("server.sql")[name]


def table_of(collection: Collection) -> sql.Identifier:
    return sql.Identifier(collection.table_schema, collection.table_name)


async def coverage_view(
    store: Store, collection: Collection, coverage: Coverage
) -> schemas.Coverage:
    """Add to a coverage how many of its pending rows have an older vector."""
    stale: int | None = 0
    if coverage.pending > MAX_LOOKUPS:
        stale = None
    elif coverage.pending:
        row = await store.connector.fetch_one(query("stale_rows"), {"collection": collection.id})
        stale = int(row["stale"])
    return schemas.Coverage.of(coverage, stale)


async def failures_page(
    store: Store, collection: Collection | None, after: tuple[int, str], limit: int
) -> list[tuple[int, str, Failure]]:
    """Return dead letters ordered by (collection's id, key), with id and name of the collection."""
    rows = await store.connector.fetch(
        query("failures_page"),
        {
            "collection": collection.id if collection else None,
            "after_collection": after[0],
            "after": after[1],
            "limit": limit,
        },
    )
    return [(row.pop("collection_id"), row.pop("collection"), Failure(**row)) for row in rows]


async def failures_since(
    store: Store, collection: Collection, moment: datetime, limit: int = 100
) -> list[Failure]:
    """Return the dead letters added after a moment, oldest first."""
    rows = await store.connector.fetch(
        query("failures_since"), {"collection": collection.id, "moment": moment, "limit": limit}
    )
    return [Failure(**row) for row in rows]


async def failures_by_kind(store: Store) -> list[DictRow]:
    """Return (collection, kind, count) rows."""
    return await store.connector.fetch(query("failures_by_kind"))


async def usage_by_collection(store: Store) -> list[DictRow]:
    """Return (collection, provider, model, embedded, tokens) rows, summed over all runs."""
    return await store.connector.fetch(query("usage_by_collection"))


async def columns(store: Store, collection: Collection) -> dict[str, str]:
    """Return the columns of a collection's table with their kind, "text" or "other"."""
    rows = await store.connector.fetch(query("table_columns"), {"collection": collection.id})
    return {row["name"]: row["kind"] for row in rows}


async def inspect(
    store: Store, collection: Collection, keys: Sequence[str], hashes: Sequence[bytes]
) -> list[RowState]:
    """Return what each row needs, given its key and the SHA-256 of the text sent for it.

    Raises:
        RowRefusedError: a key is not a value of the key column's type.
    """
    values = {
        "collection": collection.id,
        "keys": pgvector.texts(list(keys)),
        "hashes": pgvector.blobs(list(hashes)),
    }
    rows = await store.connector.fetch(query("inspect"), values)
    return [RowState(row["action"], row["row_key"]) for row in rows]
