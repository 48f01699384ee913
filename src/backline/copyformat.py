"""PostgreSQL's binary COPY format for (key text, action text, content_hash bytea, vector).

Written by hand because this is the hot path of every backfill: one bytes.join for a whole batch
in place of one Python call a field. Format: https://www.postgresql.org/docs/current/sql-copy.html,
"Binary Format"; a vector is int16 dimensions, int16 zero, then big-endian float4.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np

from backline.types import Vectors

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER: Final = struct.pack(">h", -1)
_FIELDS: Final = struct.pack(">h", 4)
_NULL: Final = struct.pack(">i", -1)


def field(value: bytes | None) -> bytes:
    """A length and the bytes, or the NULL of the format."""
    return _NULL if value is None else struct.pack(">i", len(value)) + value


def encode(rows: Sequence[tuple[str, str, bytes | None]], vectors: Vectors | None) -> list[bytes]:
    """The tuples of `rows` = (key, action, content hash), each with its vector or, for None, NULL.

    Args:
        rows: n rows.
        vectors: float32 of shape (n, dimensions), or None.

    """
    if vectors is None:
        tails = [_NULL] * len(rows)
    else:
        count, dimensions = vectors.shape
        if count != len(rows):
            raise ValueError(f"{len(rows)} rows and {count} vectors")
        head = struct.pack(">ihh", 4 + 4 * dimensions, dimensions, 0)
        body = np.ascontiguousarray(vectors, dtype=">f4").tobytes()
        width = 4 * dimensions
        tails = [head + body[at : at + width] for at in range(0, count * width, width)]
    return [
        b"".join((_FIELDS, field(key.encode()), field(action.encode()), field(digest), tail))
        for (key, action, digest), tail in zip(rows, tails, strict=True)
    ]


def stream(tuples: Sequence[bytes]) -> bytes:
    """A whole COPY stream of encoded tuples."""
    return b"".join((_HEADER, *tuples, _TRAILER))
