"""Arrays and vectors in PostgreSQL's binary format, encoded for a whole batch at once.

This is the hot path of backfill and search: it joins bytes instead of calling Python for each
float. An array is int32 number of dimensions, int32 flag for NULLs, the elements' oid, then length
and lower bound of its one dimension, then each element after its length, -1 for NULL (array_send in
src/backend/utils/adt/arrayfuncs.c). A vector is int16 dimensions, int16 zero, and big-endian float4
(vector_send in pgvector).
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

INT: Final = 23
BIGINT: Final = 20
TEXT: Final = 25
BYTEA: Final = 17
REAL: Final = 700
"""Oids of built-in types, the same in every database: src/include/catalog/pg_type.dat."""

NULL: Final = struct.pack(">i", -1)


class Array:
    """A one-dimensional array in the binary format."""

    __slots__ = ("data",)

    def __init__(self, oid: int, elements: Sequence[bytes]) -> None:
        """Join `elements`, each encoded after its length, into an array of type `oid`."""
        if not elements:
            self.data = struct.pack(">iiI", 0, 0, oid)
            return
        head = struct.pack(">iiIii", 1, 1, oid, len(elements), 1)
        self.data = b"".join((head, *elements))


class _ArrayDumper(Dumper):
    """Sends an Array unchanged. Postgres infers its type from the function's parameter."""

    format = Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        return obj.data


psycopg.adapters.register_dumper(Array, _ArrayDumper)


def texts(values: Iterable[str]) -> Array:
    """Return text[]. The values come from Postgres, so they contain no NUL."""
    return blobs([value.encode() for value in values], TEXT)


def blobs(values: Iterable[bytes | None], oid: int = BYTEA) -> Array:
    """Return bytea[], or an array of another type with the same binary format."""
    pack = struct.Struct(">i").pack
    return Array(oid, [NULL if v is None else pack(len(v)) + v for v in values])


def ints(values: Iterable[int]) -> Array:
    """Return int[]."""
    pack = struct.Struct(">ii").pack
    return Array(INT, [pack(4, v) for v in values])


def bigints(values: Iterable[int | None]) -> Array:
    """Return bigint[]."""
    pack = struct.Struct(">iq").pack
    return Array(BIGINT, [NULL if v is None else pack(8, v) for v in values])


def reals(values: Sequence[float] | NDArray[np.float32]) -> Array:
    """Return real[]."""
    import numpy as np

    body, length = np.asarray(values, dtype=">f4").tobytes(), struct.pack(">i", 4)
    return Array(REAL, [length + body[at : at + 4] for at in range(0, len(body), 4)])


def vector_elements(vectors: Vectors) -> list[bytes]:
    """Encode each row of a float32 matrix of shape (n, dimensions) as an element of vector[]."""
    count, dimensions = vectors.shape
    head = struct.pack(">ihh", 4 + 4 * dimensions, dimensions, 0)
    body = vectors.astype(">f4").tobytes()
    width = 4 * dimensions
    return [head + body[at : at + width] for at in range(0, count * width, width)]
