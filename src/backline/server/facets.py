"""The columns of a collection that have few values, for the studio's filters."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from psycopg import sql

from backline.postgres.store import Store
from backline.server import reads, schemas
from backline.types import Collection

# A part of the table this large is read in some 20 ms a column.
ROWS: Final = 50_000
VALUES: Final = 50
FRESH_SECONDS: Final = 10.0
# So long a value is prose, and no facet.
LONGEST: Final = 60


@dataclass(slots=True)
class FacetCache:
    """Facets of each collection, counted anew after some seconds."""

    _found: dict[int, tuple[float, schemas.Facets]] = field(default_factory=dict)

    async def of(self, store: Store, collection: Collection) -> schemas.Facets:
        """The facets by column; in a table of more rows, the counts are of its first 50,000."""
        counted = self._found.get(collection.id)
        if counted and time.monotonic() - counted[0] < FRESH_SECONDS:
            return counted[1]
        found = schemas.Facets(collection=collection.name, facets=await _facets(store, collection))
        self._found[collection.id] = (time.monotonic(), found)
        return found


async def _facets(store: Store, collection: Collection) -> dict[str, list[schemas.Facet]]:
    kinds = await reads.columns(store, collection)
    found = {}
    for name, kind in kinds.items():
        if kind == "text" and name != collection.key_column:
            values = await _values(store, collection, name)
            if _is_facet(values):
                found[name] = values
    return found


def _is_facet(values: list[schemas.Facet]) -> bool:
    return (
        0 < len(values) <= VALUES
        and values[0].count > 1
        and all(len(each.value) <= LONGEST for each in values)
    )


async def _values(store: Store, collection: Collection, column: str) -> list[schemas.Facet]:
    statement = sql.SQL(reads.query("facet")).format(
        column=sql.Identifier(column),
        table=reads.table_of(collection),
        rows=sql.Literal(ROWS),
        values=sql.Literal(VALUES + 1),
    )
    rows = await store.connector.fetch(statement)
    return [schemas.Facet(value=row["value"], count=row["count"]) for row in rows]
