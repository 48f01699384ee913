"""Keep the queries that a collection is asked, so that a new model can be compared on them.

A kept query is its text, its mode, how often and when it was asked last: nothing about the person
that asked. The setting `keep_queries` allows it, and is off by default.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from psycopg.types.json import Jsonb

from backline import errors
from backline.postgres.store import Store
from backline.search.query import Mode
from backline.sql import queries
from backline.types import Collection

KEEP_SECONDS: Final = 1.0
"""How long a command waits to keep its query. A search does not fail because of it."""


class Asked(NamedTuple):
    """A query that was asked: the name of the collection, the mode and the text."""

    collection: str
    mode: Mode
    text: str


@dataclass(frozen=True, slots=True)
class KeptQuery:
    """A kept query; `asked_at` is the last time, and `times` how often."""

    text: str
    mode: Mode
    times: int
    asked_at: datetime


async def keep(store: Store, asked: Mapping[Asked, int]) -> None:
    """Keep queries, each with how often it was asked since the last call.

    Raises:
        DatabaseError: they could not be stored, as with a role that may only read.
    """
    rows = [{**each._asdict(), "times": times} for each, times in asked.items()]
    statement = queries("search.sql")["keep_queries"]
    await store.connector.execute(statement, {"queries": Jsonb(rows)})


async def keep_one(store: Store, asked: Asked) -> None:
    """Keep one query, unless that fails or takes longer than KEEP_SECONDS."""
    with suppress(errors.BacklineError, TimeoutError):
        async with asyncio.timeout(KEEP_SECONDS):
            await keep(store, {asked: 1})


async def kept(store: Store, collection: Collection, limit: int) -> list[KeptQuery]:
    """Return the latest `limit` kept queries of a collection, latest first."""
    values = {"collection": collection.name, "limit": limit}
    rows = await store.connector.fetch(queries("search.sql")["kept_queries"], values)
    return [KeptQuery(**row) for row in rows]


async def kept_count(store: Store, collection: Collection) -> int:
    """Return how many queries of a collection are kept."""
    statement = queries("search.sql")["kept_count"]
    row = await store.connector.fetch_one(statement, {"collection": collection.name})
    return int(row["kept"])


async def delete_kept(store: Store, collection: Collection) -> int:
    """Delete the kept queries of a collection, and the evaluations that quote them.

    Returns:
        How many queries were deleted.
    """
    statement = queries("search.sql")["delete_queries"]
    row = await store.connector.fetch_one(statement, {"collection": collection.name})
    return int(row["deleted"])
