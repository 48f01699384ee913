"""The projection of the map: correct, deterministic, and defined for few rows."""

from __future__ import annotations

import numpy as np
import pytest

from backline.server.map import fit


def test_axes_are_the_directions_of_largest_variance() -> None:
    random = np.random.default_rng(7)
    spread = np.array([5.0, 3.0, 0.1, 0.1, 0.1])
    rotation, _ = np.linalg.qr(random.normal(size=(5, 5)))
    vectors = (random.normal(size=(2000, 5)) * spread @ rotation.T + 10).astype(np.float32)
    plane = fit(vectors)
    for axis, direction in ((0, rotation[:, 0]), (1, rotation[:, 1])):
        assert abs(plane.axes[:, axis] @ direction) > 0.99
    largest = plane.axes[np.abs(plane.axes).argmax(axis=0), [0, 1]]
    assert (largest > 0).all(), "the sign of an axis is not fixed"
    expected = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:2].T
    assert np.allclose(np.abs(plane.axes), np.abs(expected), atol=1e-3)


def test_places_fill_the_square_and_are_clipped_to_it() -> None:
    vectors = np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
    plane = fit(vectors)
    placed = plane.place(vectors)
    assert placed.shape == (300, 2)
    assert np.abs(placed).max(axis=0) == pytest.approx([1, 1])
    assert np.abs(plane.place(100 * vectors)).max() == 1


def test_projection_does_not_depend_on_the_order_of_rows() -> None:
    vectors = np.random.default_rng(2).normal(size=(200, 12)).astype(np.float32)
    order = np.random.default_rng(3).permutation(200)
    assert np.allclose(
        fit(vectors).place(vectors)[order], fit(vectors[order]).place(vectors[order])
    )


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (5, 1), (2, 2)])
def test_few_rows_and_few_dimensions_are_projected(shape: tuple[int, int]) -> None:
    vectors = np.ones(shape, dtype=np.float32)
    placed = fit(vectors).place(vectors)
    assert placed.shape == (shape[0], 2)
    assert np.isfinite(placed).all()
