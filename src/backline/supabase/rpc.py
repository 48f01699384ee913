"""Values of the store's verbs as JSON, in the form that PostgREST and Postgres read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np
from psycopg.types.json import Jsonb

from backline import pgvector
from backline.store import NewVector
from backline.supabase.client import Project

# Writes that must not happen twice carry a call id, under which the database keeps the result.
IDENTIFIED: Final = frozenset(
    {"complete", "cutover", "fail", "register_worker", "rollback_change", "start_run"}
)
# Numbers in the vectors of one request: 2 MB of text. More rows would hold their locks for longer.
MOST_NUMBERS: Final = 200_000
HEADER: Final = 8  # bytes of a vector element before its first number: length, dimensions, unused


class PostgrestRpc:
    """Calls `public.backline_<verb>`; a result is one JSON value."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def value(self, verb: str, /, **arguments: Any) -> Any:
        if verb in IDENTIFIED:
            arguments["call"] = uuid4()
        encoded = {name: encode(value) for name, value in arguments.items()}
        return await self._project.call(verb, **encoded)

    async def record(self, verb: str, /, **arguments: Any) -> dict[str, Any]:
        record: dict[str, Any] = await self.value(verb, **arguments)
        return record

    async def records(self, verb: str, /, **arguments: Any) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = await self.value(verb, **arguments)
        return records

    async def rows(self, verb: str, /, **arguments: Any) -> list[list[Any]]:
        rows: list[list[Any]] = await self.value(verb, **arguments)
        return rows


def encode(value: Any) -> Any:
    """Return an argument as JSON holds it: bytes in hexadecimal, times in ISO 8601."""
    match value:
        case bytes():
            return rf"\x{value.hex()}"
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case Jsonb():
            return value.obj
        case list():
            return [encode(item) for item in value]
    return value


def encode_rows(rows: Sequence[NewVector]) -> Mapping[str, list[Any]]:
    """Return rows as the parallel arrays that `complete` takes."""
    return {
        "keys": [row.key for row in rows],
        "actions": [row.action for row in rows],
        "hashes": [row.content_hash for row in rows],
        "vectors": [vector_text(row.encoded) for row in rows],
        "leases": [row.lease for row in rows],
        "long": [row.long for row in rows],
        **_encode_passages(rows),
    }


def _encode_passages(rows: Sequence[NewVector]) -> dict[str, list[Any]]:
    """Return the passages of rows, as the arrays with one element a passage; none without any."""
    found = [(at, each) for at, row in enumerate(rows, 1) for each in row.passages]
    if not found:
        return {}
    return {
        "of": [at for at, _ in found],
        "starts": [each.start for _, each in found],
        "ends": [each.end for _, each in found],
        "headings": [each.heading for _, each in found],
        "passages": [each.content_hash for _, each in found],
        "passage_vectors": [vector_text(each.encoded) for _, each in found],
    }


def chunks(rows: Sequence[NewVector], dimensions: int) -> Iterator[Sequence[NewVector]]:
    """Yield rows in parts of at most MOST_NUMBERS vector components, or of one row."""
    most = max(1, MOST_NUMBERS // dimensions)
    start = vectors = 0
    for at, row in enumerate(rows):
        size = max(1, len(row.passages))
        if at > start and vectors + size > most:
            yield rows[start:at]
            start, vectors = at, 0
        vectors += size
    if rows:
        yield rows[start:]


def vector_text(element: bytes) -> str | None:
    """Return a vector element as text that Postgres reads; nine digits keep every float32."""
    if element == pgvector.NULL:
        return None
    numbers = np.frombuffer(element, dtype=">f4", offset=HEADER).tolist()
    return f"[{','.join(['%.9g'] * len(numbers))}]" % tuple(numbers)
