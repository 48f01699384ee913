"""A collection's embeddings in two dimensions, for the studio's map.

Principal component analysis (Hotelling 1933): the plane in which the vectors differ most, found by
the eigenvectors of their covariance. It is deterministic, and a query's vector has a place in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import DictRow

from backline.postgres.store import Store
from backline.server import reads
from backline.sql import query
from backline.types import Collection, Vectors

LARGEST: Final = 20_000
MOST_MAPS: Final = 8
# A map is looked at again after so long; it is made anew only where something was embedded since.
FRESH_SECONDS: Final = 5.0
# Columns that name a row, and that group rows, as tables usually have them; the first one counts.
TITLES: Final = ("title", "name", "subject", "headline", "question", "topic")
CATEGORIES: Final = ("category", "topic", "kind", "type", "genre", "status", "language")


@dataclass(frozen=True, slots=True)
class Plane:
    """Where in the plane a vector lies: ((vector - mean) @ axes) / scale.

    `mean` is of shape (dimensions,), `axes` of (dimensions, 2), `scale` of (2,), all float64.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    scale: NDArray[np.float64]

    def place(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Places of shape (n, 2) within [-1, 1] for vectors of shape (n, dimensions)."""
        placed = (vectors.astype(np.float64) - self.mean) @ self.axes / self.scale
        return np.clip(placed, -1.0, 1.0)


def fit(vectors: Vectors) -> Plane:
    """The plane of the two greatest variances of float32 vectors of shape (n, dimensions)."""
    dimensions = vectors.shape[1]
    mean = vectors.mean(axis=0, dtype=np.float64) if len(vectors) else np.zeros(dimensions)
    centred = vectors - mean
    _, directions = np.linalg.eigh(centred.T @ centred)  # by variance, the smallest first
    axes = np.zeros((dimensions, 2))
    axes[:, : min(2, dimensions)] = directions[:, ::-1][:, :2]
    # An eigenvector's sign is arbitrary: the greatest component is positive, on every machine.
    greatest = axes[np.abs(axes).argmax(axis=0), [0, 1]]
    axes *= np.where(greatest < 0, -1.0, 1.0)
    extent = np.abs(centred @ axes).max(axis=0, initial=0.0)
    return Plane(mean, axes, np.where(extent > 1e-12, extent, 1.0))


@dataclass(frozen=True, slots=True)
class MapOfRows:
    """Rows in the plane; the lists are columns of equal length, x and y of shape (count,)."""

    plane: Plane
    total: int
    keys: list[str]
    titles: list[str]
    categories: list[str | None]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    computed_at: datetime


@dataclass(slots=True)
class _Kept:
    made: MapOfRows
    of: tuple[int, ...]
    looked: float


@dataclass(slots=True)
class Maps:
    """Maps of collections, each kept until something new is embedded."""

    _kept: OrderedDict[tuple[int, int, int], _Kept] = field(default_factory=OrderedDict)
    _making: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def of(self, store: Store, collection: Collection, limit: int) -> MapOfRows:
        """The map of up to `limit` rows: an even sample where there are more."""
        async with self._making:  # two callers at once make it once
            name = (collection.id, collection.model_id, limit)
            kept = self._kept.get(name)
            if kept and time.monotonic() - kept.looked < FRESH_SECONDS:
                return kept.made
            state = await _state(store, collection)
            if kept is None or kept.of != state:
                made = await _make(store, collection, limit, state[0])
                kept = self._kept[name] = _Kept(made, state, 0.0)
            kept.looked = time.monotonic()
            self._kept.move_to_end(name)
            while len(self._kept) > MOST_MAPS:
                self._kept.popitem(last=False)
            return kept.made


async def _state(store: Store, collection: Collection) -> tuple[int, int]:
    """Rows that have a vector of the present model, and when the last of them was stored."""
    row = await store.connector.fetch_one(
        reads.query("embedded_state"), {"collection": collection.id, "model": collection.model_id}
    )
    return int(row["embedded"]), int(row["newest"])


async def _make(store: Store, collection: Collection, limit: int, total: int) -> MapOfRows:
    rows = await store.connector.fetch(await _statement(store, collection, limit, total))
    return await asyncio.to_thread(_project, rows, collection.model.dimensions, total)


def _project(rows: list[DictRow], dimensions: int, total: int) -> MapOfRows:
    # Four bytes of header, then big-endian float32.
    wire = b"".join(row["vector"][4:] for row in rows)
    vectors = np.frombuffer(wire, dtype=">f4").astype(np.float32).reshape(-1, dimensions)
    plane = fit(vectors)
    placed = plane.place(vectors)
    return MapOfRows(
        plane=plane,
        total=max(total, len(rows)),
        keys=[row["key"] for row in rows],
        titles=[row["title"] or row["key"] for row in rows],
        categories=[row["category"] for row in rows],
        x=placed[:, 0],
        y=placed[:, 1],
        computed_at=datetime.now(UTC),
    )


async def _statement(store: Store, collection: Collection, limit: int, total: int) -> sql.Composed:
    kinds = await reads.columns(store, collection)
    schema = (await store.connector.fetch(query("vector_schema")))[0]["schema"]
    # So many more than wanted that a sample is all but never short; what is over is cut off.
    wanted = limit + 5 * limit**0.5 + 20
    share = 100.0 if total <= wanted else 100.0 * wanted / total
    sample = sql.SQL("" if share >= 100 else "tablesample bernoulli ({}) repeatable (0)")
    return sql.SQL(reads.query("embedded_rows")).format(
        key=sql.Identifier(collection.key_column),
        title=_first(kinds, TITLES),
        category=_first(kinds, CATEGORIES),
        vector_send=sql.Identifier(schema, "vector_send"),
        vector=sql.Identifier(schema, "vector"),
        embedding=sql.Identifier(collection.embedding_column),
        table=reads.table_of(collection),
        sample=sample.format(sql.Literal(share)),
        limit=sql.Literal(limit),
    )


def _first(kinds: dict[str, str], names: tuple[str, ...]) -> sql.Composable:
    """The first of the columns that the table has as text, or nothing."""
    for name in names:
        if kinds.get(name) == "text":
            return sql.SQL("left(r.{}::text, 200)").format(sql.Identifier(name))
    return sql.SQL("null::text")


def row(vector: list[float]) -> NDArray[np.float64]:
    """One vector as a matrix of shape (1, dimensions)."""
    return np.array([vector], dtype=np.float64)
