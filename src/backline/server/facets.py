"""Columns of a collection with few distinct values, for the studio's filters."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from psycopg import sql

from backline.postgres.store import Store
from backline.server import reads, schemas
from backline.types import Collection

# Counting a column over this many rows takes about 20 ms.
ROWS: Final = 50_000
MAX_VALUES: Final = 50
CACHE_SECONDS: Final = 10.0
# Longer values are prose.
MAX_LENGTH: Final = 60


@dataclass(slots=True)
class FacetCache:
    """Facets of each collection, cached for `CACHE_SECONDS`.

    A cut-over gives the name of a collection to another id, so that the key has both.
    """

    _cache: dict[tuple[int, str], tuple[float, schemas.Facets]] = field(default_factory=dict)

    async def get(self, store: Store, collection: Collection) -> schemas.Facets:
        """Return the facets by column, counted over the first 50,000 rows of the table."""
        name = (collection.id, collection.name)
        cached = self._cache.get(name)
        if cached and time.monotonic() - cached[0] < CACHE_SECONDS:
            return cached[1]
        facets = schemas.Facets(
            collection=collection.name, facets=await _count_facets(store, collection)
        )
        self._cache[name] = (time.monotonic(), facets)
        return facets


async def _count_facets(store: Store, collection: Collection) -> dict[str, list[schemas.Facet]]:
    kinds = await reads.columns(store, collection)
    facets = {}
    for name, kind in kinds.items():
        if kind == "text" and name not in collection.key_columns:
            values = await _count_values(store, collection, name)
            if _is_facet(values):
                facets[name] = values
    return facets


def _is_facet(values: list[schemas.Facet]) -> bool:
    return (
        0 < len(values) <= MAX_VALUES
        and values[0].count > 1
        and all(len(each.value) <= MAX_LENGTH for each in values)
    )


async def _count_values(store: Store, collection: Collection, column: str) -> list[schemas.Facet]:
    statement = sql.SQL(reads.query("facet")).format(
        column=sql.Identifier(column),
        table=reads.table_of(collection),
        rows=sql.Literal(ROWS),
        values=sql.Literal(MAX_VALUES + 1),
    )
    rows = await store.connector.fetch(statement)
    return [schemas.Facet(value=row["value"], count=row["count"]) for row in rows]
