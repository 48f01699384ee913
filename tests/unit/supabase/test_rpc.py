"""Values of the store's verbs as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from psycopg.types.json import Jsonb

from backline import pgvector
from backline.store import NewVector
from backline.supabase.rpc import MOST_NUMBERS, chunks, encode, vector_text


@pytest.mark.parametrize("dimensions", [1, 3, 384, 1536])
def test_vector_text_keeps_every_float32(dimensions: int) -> None:
    vectors = np.random.default_rng(7).standard_normal((5, dimensions)).astype(np.float32)
    vectors[0, 0], vectors[1, 0], vectors[2, 0] = 1e-38, 3.4e38, -0.0
    for element, vector in zip(pgvector.vector_elements(vectors), vectors, strict=True):
        text = vector_text(element)
        assert text is not None
        assert np.array_equal(np.array(json.loads(text), dtype=np.float32), vector)


def test_null_vector_is_none() -> None:
    assert vector_text(pgvector.NULL) is None


@pytest.mark.parametrize(("dimensions", "count"), [(1, 5), (1536, 1000), (2 * MOST_NUMBERS, 3)])
def test_requests_carry_a_bounded_number_of_components(dimensions: int, count: int) -> None:
    rows = [NewVector(str(n), "embed", b"") for n in range(count)]
    parts = list(chunks(rows, dimensions))
    assert [row for part in parts for row in part] == rows
    assert all(len(part) * dimensions <= max(MOST_NUMBERS, dimensions) for part in parts)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (b"\x01\xff", r"\x01ff"),
        ([b"\x01", None], [r"\x01", None]),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Jsonb({"a": [1]}), {"a": [1]}),
        (["key", 3, 0.5, True, None], ["key", 3, 0.5, True, None]),
    ],
)
def test_arguments_are_encoded_as_postgres_reads_json(value: Any, encoded: Any) -> None:
    assert encode(value) == encoded
