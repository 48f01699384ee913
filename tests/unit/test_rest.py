"""How values of the store travel as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backline import pgvector
from backline.store import NewVector
from backline.supabase.store import MOST_NUMBERS, _chunks, vector_text


@pytest.mark.parametrize("dimensions", [1, 3, 384, 1536])
def test_a_vector_as_text_is_the_very_float32(dimensions: int) -> None:
    vectors = np.random.default_rng(7).standard_normal((5, dimensions)).astype(np.float32)
    vectors[0, 0], vectors[1, 0], vectors[2, 0] = 1e-38, 3.4e38, -0.0
    for element, vector in zip(pgvector.vector_elements(vectors), vectors, strict=True):
        text = vector_text(element)
        assert text is not None
        assert np.array_equal(np.array(json.loads(text), dtype=np.float32), vector)


def test_no_vector_is_none() -> None:
    assert vector_text(pgvector.NULL) is None


@pytest.mark.parametrize(("dimensions", "rows"), [(1, 5), (1536, 1000), (2 * MOST_NUMBERS, 3)])
def test_rows_are_cut_into_requests_of_a_bounded_size(dimensions: int, rows: int) -> None:
    given = [NewVector(str(n), "embed", b"") for n in range(rows)]
    chunks = list(_chunks(given, dimensions))
    assert [row for chunk in chunks for row in chunk] == given
    assert all(len(chunk) * dimensions <= max(MOST_NUMBERS, dimensions) for chunk in chunks)
