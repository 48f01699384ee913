"""Projects the embeddings of a collection to two dimensions, for the studio's map.

The projection is a principal component analysis (Hotelling 1933): the plane of the two largest
variances, spanned by eigenvectors of the covariance. It is deterministic and can place new vectors,
such as a query's.
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

MAX_ROWS: Final = 20_000
MAX_MAPS: Final = 8
# How long a map is served without checking whether rows were embedded since.
CACHE_SECONDS: Final = 5.0
# Common names of columns that title or group a row. The first that exists is used.
TITLES: Final = ("title", "name", "subject", "headline", "question", "topic")
CATEGORIES: Final = ("category", "topic", "kind", "type", "genre", "status", "language")


@dataclass(frozen=True, slots=True)
class Plane:
    """A projection to the plane: ((vector - mean) @ axes) / scale.

    `mean` has the shape (dimensions,), `axes` (dimensions, 2) and `scale` (2,), all float64.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    scale: NDArray[np.float64]

    def place(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Project vectors of shape (n, dimensions) to (n, 2), clipped to [-1, 1]."""
        placed = (vectors.astype(np.float64) - self.mean) @ self.axes / self.scale
        return np.clip(placed, -1.0, 1.0)


def fit(vectors: Vectors) -> Plane:
    """Return the plane of the two largest variances of float32 vectors (n, dimensions)."""
    dimensions = vectors.shape[1]
    mean = vectors.mean(axis=0, dtype=np.float64) if len(vectors) else np.zeros(dimensions)
    centred = vectors - mean
    _, directions = np.linalg.eigh(centred.T @ centred)  # in ascending order of variance
    axes = np.zeros((dimensions, 2))
    axes[:, : min(2, dimensions)] = directions[:, ::-1][:, :2]
    # The sign of an eigenvector is arbitrary. Make its largest component positive everywhere.
    largest = axes[np.abs(axes).argmax(axis=0), [0, 1]]
    axes *= np.where(largest < 0, -1.0, 1.0)
    extent = np.abs(centred @ axes).max(axis=0, initial=0.0)
    return Plane(mean, axes, np.where(extent > 1e-12, extent, 1.0))


@dataclass(frozen=True, slots=True)
class ProjectedRows:
    """Rows in the plane. The lists have equal length; x and y have the shape (count,)."""

    plane: Plane
    total: int
    keys: list[str]
    titles: list[str]
    categories: list[str | None]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    computed_at: datetime


@dataclass(slots=True)
class _Cached:
    rows: ProjectedRows
    version: tuple[int, int]
    checked: float


@dataclass(slots=True)
class MapCache:
    """Maps of collections, recomputed once rows have been embedded since."""

    _maps: OrderedDict[tuple[int, int, int], _Cached] = field(default_factory=OrderedDict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def get(self, store: Store, collection: Collection, limit: int) -> ProjectedRows:
        """Return the map of at most `limit` rows, sampled evenly from a larger table."""
        async with self._lock:  # concurrent requests compute a map once
            name = (collection.id, collection.model_id, limit)
            cached = self._maps.get(name)
            if cached and time.monotonic() - cached.checked < CACHE_SECONDS:
                return cached.rows
            version = await _version(store, collection)
            if cached is None or cached.version != version:
                rows = await _compute(store, collection, limit, total=version[0])
                cached = self._maps[name] = _Cached(rows, version, 0.0)
            cached.checked = time.monotonic()
            self._maps.move_to_end(name)
            while len(self._maps) > MAX_MAPS:
                self._maps.popitem(last=False)
            return cached.rows


async def _version(store: Store, collection: Collection) -> tuple[int, int]:
    """Return the number of embedded rows and the time of the latest, in microseconds."""
    row = await store.connector.fetch_one(
        reads.query("embedded_state"), {"collection": collection.id, "model": collection.model_id}
    )
    return int(row["embedded"]), int(row["newest"])


async def _compute(store: Store, collection: Collection, limit: int, total: int) -> ProjectedRows:
    rows = await store.connector.fetch(await _statement(store, collection, limit, total))
    return await asyncio.to_thread(_project, rows, collection.model.dimensions, total)


def _project(rows: list[DictRow], dimensions: int, total: int) -> ProjectedRows:
    # A vector in pgvector's binary format: a header of four bytes, then big-endian float32.
    data = b"".join(row["vector"][4:] for row in rows)
    vectors = np.frombuffer(data, dtype=">f4").astype(np.float32).reshape(-1, dimensions)
    plane = fit(vectors)
    placed = plane.place(vectors)
    return ProjectedRows(
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
    # Sample five standard deviations more than `limit`, so that the sample is almost never short.
    sampled = limit + 5 * limit**0.5 + 20
    percent = 100.0 if total <= sampled else 100.0 * sampled / total
    sample = "" if percent >= 100 else f"tablesample bernoulli ({percent}) repeatable (0)"
    parts = await store.connector.fetch_one(
        reads.query("key_expressions"), {"collection": collection.id, "sample": sample}
    )
    return sql.SQL(reads.query("embedded_rows")).format(
        key=sql.SQL(parts["key"]),
        order=sql.SQL(parts["key_order"]),
        title=_first_column(kinds, TITLES),
        category=_first_column(kinds, CATEGORIES),
        vector_send=sql.Identifier(schema, "vector_send"),
        vector=sql.Identifier(schema, "vector"),
        embedding=sql.SQL(parts["vector"]),
        rows=sql.SQL(parts["rows"]),
        limit=sql.Literal(limit),
    )


def _first_column(kinds: dict[str, str], names: tuple[str, ...]) -> sql.Composable:
    """Select the first of the columns that exists and holds text, or null."""
    for name in names:
        if kinds.get(name) == "text":
            return sql.SQL("left(r.{}::text, 200)").format(sql.Identifier(name))
    return sql.SQL("null::text")


def row(vector: list[float]) -> NDArray[np.float64]:
    """Return one vector as a matrix of shape (1, dimensions)."""
    return np.array([vector], dtype=np.float64)
