"""Arrays in PostgreSQL's binary format, built for a whole batch at once.

The hot path of backfill and search: a join of bytes in place of a Python call for each float.
Format: int32 number of dimensions, int32 whether there are NULLs, the elements' oid, then length
and lower bound of the one dimension, then each element with its length, -1 for NULL
(array_send in src/backend/utils/adt/arrayfuncs.c). A vector is int16 dimensions, int16 zero, and
big-endian float4 (vector_send in pgvector).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from backline.types import Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BIGINT: Final = 20
TEXT: Final = 25
BYTEA: Final = 17
REAL: Final = 700
"""Oids of types that are the same in every database: src/include/catalog/pg_type.dat."""

NULL: Final = struct.pack(">i", -1)


class Array:
    """A one-dimensional array as the server reads it."""

    __slots__ = ("data",)

    def __init__(self, oid: int, elements: Sequence[bytes]) -> None:
        """Join `elements`, each with its length before it, into an array of type `oid`."""
        if not elements:
            self.data = struct.pack(">iiI", 0, 0, oid)
            return
        head = struct.pack(">iiIii", 1, 1, oid, len(elements), 1)
        self.data = b"".join((head, *elements))


class _ArrayDumper(Dumper):
    """Sends an Array as it is; the server knows its type from the function that takes it."""

    format = Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        return obj.data


psycopg.adapters.register_dumper(Array, _ArrayDumper)


def texts(values: Iterable[str]) -> Array:
    """text[]; NUL cannot occur, since the values came from Postgres."""
    return blobs([value.encode() for value in values], TEXT)


def blobs(values: Iterable[bytes | None], oid: int = BYTEA) -> Array:
    """bytea[], or another type of plain bytes."""
    pack = struct.Struct(">i").pack
    return Array(oid, [NULL if v is None else pack(len(v)) + v for v in values])


def bigints(values: Iterable[int | None]) -> Array:
    """bigint[]."""
    pack = struct.Struct(">iq").pack
    return Array(BIGINT, [NULL if v is None else pack(8, v) for v in values])


def reals(values: Sequence[float] | NDArray[np.float32]) -> Array:
    """real[]."""
    import numpy as np

    body, length = np.asarray(values, dtype=">f4").tobytes(), struct.pack(">i", 4)
    return Array(REAL, [length + body[at : at + 4] for at in range(0, len(body), 4)])


def vector_elements(vectors: Vectors) -> list[bytes]:
    """Each row of a float32 matrix of shape (n, dimensions) as an element of a vector[]."""
    count, dimensions = vectors.shape
    head = struct.pack(">ihh", 4 + 4 * dimensions, dimensions, 0)
    body = vectors.astype(">f4").tobytes()
    width = 4 * dimensions
    return [head + body[at : at + width] for at in range(0, count * width, width)]
