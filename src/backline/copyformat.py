"""PostgreSQL's binary COPY format for (key text, action text, content_hash bytea, vector).

Written by hand because this is the hot path of every backfill: one bytes.join for a whole batch
in place of one Python call a field. Format: https://www.postgresql.org/docs/current/sql-copy.html,
"Binary Format"; a vector is int16 dimensions, int16 zero, then big-endian float4.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Final

from backline.types import Action, Vectors

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER: Final = struct.pack(">h", -1)
_DIGEST: Final = struct.pack(">i", 32)
_NULL: Final = struct.pack(">i", -1)


@cache
def _prefix(key_length: int) -> bytes:
    """The field count and the key's length."""
    return struct.pack(">hi", 4, key_length)


@cache
def _action(action: Action) -> bytes:
    value = action.encode()
    return struct.pack(">i", len(value)) + value


def encode(
    keys: Sequence[str],
    actions: Sequence[Action],
    hashes: Sequence[bytes | None],
    vectors: Vectors | None,
) -> list[bytes]:
    """The tuples (key, action, content hash, vector) of n rows; without vectors, that is NULL.

    Args:
        keys: n keys in text form.
        actions: what each row needed.
        hashes: SHA-256 of each text, None for a row that is gone.
        vectors: float32 of shape (n, dimensions), or None.
    """
    tails = [_NULL] * len(keys) if vectors is None else _tails(vectors)
    encoded = []
    for key, action, digest, tail in zip(keys, actions, hashes, tails, strict=True):
        name = key.encode()
        middle = _NULL if digest is None else _DIGEST + digest
        encoded.append(_prefix(len(name)) + name + _action(action) + middle + tail)
    return encoded


def _tails(vectors: Vectors) -> list[bytes]:
    count, dimensions = vectors.shape
    head = struct.pack(">ihh", 4 + 4 * dimensions, dimensions, 0)
    body = vectors.astype(">f4").tobytes()
    width = 4 * dimensions
    return [head + body[at : at + width] for at in range(0, count * width, width)]


def stream(tuples: Sequence[bytes]) -> bytes:
    """A whole COPY stream of encoded tuples."""
    return b"".join((_HEADER, *tuples, _TRAILER))
