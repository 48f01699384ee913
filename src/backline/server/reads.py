"""What the server reads beside what the store does: pages, columns, figures. It never writes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from psycopg import sql
from psycopg.rows import DictRow

from backline.postgres.store import Store
from backline.server import schemas
from backline.sql import queries
from backline.types import Collection, Coverage, Failure

# More pending rows than this are not looked up one by one while somebody waits: some 20 ms.
MOST_LOOKED_UP: Final = 10_000


def query(name: str) -> str:
    """One statement of server.sql."""
    return queries("server.sql")[name]


def table_of(collection: Collection) -> sql.Identifier:
    return sql.Identifier(collection.table_schema, collection.table_name)


async def shown(store: Store, collection: Collection, coverage: Coverage) -> schemas.Coverage:
    """A coverage as it is answered, with how many of its pending rows have an older vector."""
    stale: int | None = 0
    if coverage.pending > MOST_LOOKED_UP:
        stale = None
    elif coverage.pending:
        row = await store.connector.fetch_one(query("stale_rows"), {"collection": collection.id})
        stale = int(row["stale"])
    return schemas.Coverage.of(coverage, stale)


async def failures_page(
    store: Store, collection: Collection | None, after: tuple[int, str], limit: int
) -> list[tuple[int, str, Failure]]:
    """One page of dead letters by (collection's id, key), each with id and name of its own."""
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
    """The dead letters that were added after a moment, oldest first."""
    rows = await store.connector.fetch(
        query("failures_since"), {"collection": collection.id, "moment": moment, "limit": limit}
    )
    return [Failure(**row) for row in rows]


async def failures_by_kind(store: Store) -> list[DictRow]:
    """collection, kind, count."""
    return await store.connector.fetch(query("failures_by_kind"))


async def spent(store: Store) -> list[DictRow]:
    """collection, provider, model, embedded, tokens: what all runs together did."""
    return await store.connector.fetch(query("spent_by_collection"))


async def columns(store: Store, collection: Collection) -> dict[str, str]:
    """The columns of a collection's table, with the kind of each: text or other."""
    rows = await store.connector.fetch(query("table_columns"), {"collection": collection.id})
    return {row["name"]: row["kind"] for row in rows}


async def stamped(store: Store, collection: Collection, keys: Sequence[str]) -> dict[str, bytes]:
    """The SHA-256 of the text that each of these keys has a vector of the present model for."""
    rows = await store.connector.fetch(
        query("stamped"),
        {"collection": collection.id, "model": collection.model_id, "keys": list(keys)},
    )
    return {row["key"]: row["content_hash"] for row in rows}


async def keys_of(store: Store, collection: Collection, given: Sequence[str]) -> dict[str, str]:
    """The keys of the rows that these texts name, as the table writes them: '7' for '007'.

    Raises:
        RowRefusedError: one of them is none of the key's type.
    """
    kind = await store.connector.fetch_one(query("key_type"), {"collection": collection.id})
    statement = sql.SQL(query("keys_of")).format(
        key=sql.Identifier(collection.key_column),
        type=sql.SQL(kind["key_type"]),
        table=table_of(collection),
    )
    rows = await store.connector.fetch(statement, {"keys": list(given)})
    return {row["given"]: row["key"] for row in rows}
