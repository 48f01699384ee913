"""The hash embedder: fixed values, and the statistics that make it useful as a stand-in."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import pytest

from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.errors import ConfigurationError

GOLDEN = {
    "": [0.51118934, 0.08174314, -0.36489701, -0.43545544, 0.63971269],
    "vocals sound muddy": [0.08361746, -0.27718860, -0.50104636, 0.53215039, 0.61801547],
    "naïve 🎛️": [-0.53888154, -0.13693686, -0.31995806, -0.55292070, 0.53175223],
}


@pytest.mark.parametrize("text", GOLDEN)
def test_vectors_never_change(text: str) -> None:
    np.testing.assert_allclose(hash_vectors([text], 5)[0], GOLDEN[text], atol=1e-7, rtol=0)


def reference_vector(text: str, dimensions: int) -> list[float]:
    """Compute the documented construction with plain integers."""
    start, step = struct.unpack_from("<QQ", hashlib.sha256(text.encode()).digest())
    components: list[int] = []
    for j in range(math.ceil(dimensions / 4)):
        word = (start + (j + 1) * (step | 1)) % 2**64
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        word ^= word >> 31
        components += [part | 1 for part in struct.unpack("<hhhh", word.to_bytes(8, "little"))]
    length = math.sqrt(sum(c * c for c in components[:dimensions]))
    return [c / length for c in components[:dimensions]]


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5, 384, 1536, 16_000])
def test_vectors_follow_the_documented_construction(dimensions: int) -> None:
    texts = ["a", "kick and bass clash", "a"]
    vectors = hash_vectors(texts, dimensions)
    assert vectors.shape == (3, dimensions)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(vector, reference_vector(text, dimensions), atol=2e-7, rtol=0)


def test_components_have_mean_zero_and_equal_variance() -> None:
    vectors = hash_vectors([f"text {i}" for i in range(2000)], 384)
    # 768,000 components with standard deviation 1/sqrt(384): five standard errors are 0.0003.
    assert abs(float(vectors.mean())) < 3e-4
    assert float(np.abs(vectors.mean(axis=0)).max()) < 5 / math.sqrt(384 * 2000)
    np.testing.assert_allclose(vectors.std(axis=0), 1 / math.sqrt(384), rtol=0.06)


def test_different_texts_are_near_orthogonal() -> None:
    vectors = hash_vectors([f"text {i}" for i in range(1000)], 384)
    cosines = (vectors @ vectors.T)[np.triu_indices(1000, k=1)]
    assert float(np.abs(cosines).max()) < 0.32  # over 6 standard deviations of 1/sqrt(384)
    assert float(cosines.std()) == pytest.approx(1 / math.sqrt(384), rel=0.02)


async def test_rows_do_not_depend_on_the_batch_boundaries() -> None:
    texts = [f"row {i}" for i in range(5000)]  # more than two turns of the event loop
    whole = await HashEmbedder(384).embed(texts)
    np.testing.assert_array_equal(
        whole[[0, 2047, 2048, 4999]], hash_vectors([texts[i] for i in (0, 2047, 2048, 4999)], 384)
    )


def test_lone_surrogates_have_different_vectors() -> None:
    first, second = hash_vectors(["\ud800", "\ud801"], 384)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("dimensions", [0, -1, 16_001])
def test_error_about_dimensions_names_both_numbers(dimensions: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"cannot compute {dimensions} .* 1 to 16000"):
        HashEmbedder(dimensions)


def test_model_and_repr_describe_the_embedder() -> None:
    model = HashEmbedder(1536).model
    assert model.identity == ("hash", "hash", "v1", 1536)
    assert HashEmbedder().model.dimensions == 384
    assert repr(HashEmbedder(3)) == "HashEmbedder(dimensions=3)"
