"""An embedder without a model: it expands the hash of a text into a unit vector.

The vectors have no meaning. Equal texts have equal vectors, and different texts near-orthogonal
ones. It serves tests, benchmarks and trials, which need vectors but no model and no key.

Construction, revision "v1":

1. `digest = SHA-256(UTF-8(text))`; its first two little-endian 64-bit words are `start` and
   `step`, `step` made odd.
2. Word `j` is `mix(start + (j + 1) * step)` modulo 2**64, where `mix` is the finalizer of
   SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
3. Each word is split, low bits first, into four signed 16-bit components. Each component is made
   odd, so that no vector is zero and the components have mean zero.
4. The vector is scaled to unit length. The squared length is an integer under 2**44, which float64
   sums exactly in any order, so every machine computes the same bits.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backline.errors import ConfigurationError
from backline.types import Model, Purpose, Vectors

MAX_DIMENSIONS = 16_000
"""Limit of a pgvector column."""

MAX_TOKENS = 8192
CHARACTERS_PER_TOKEN = 4

_MAKE_ODD = np.uint64(0x0001_0001_0001_0001)
# Components expanded at a time. Intermediate arrays of 64 rows of 384 stay in the L2 cache, which
# is 1.6 times as fast as expanding 4,096 rows.
_COMPONENTS_AT_ONCE = 64 * 384
# Components computed before control returns to the event loop: about 4 ms.
_COMPONENTS_PER_TURN = 2048 * 384


class HashEmbedder:
    """Expands the SHA-256 digest of a text into a unit vector of `dimensions` components.

    The module's docstring specifies the construction. Four characters count as one token.

    Raises:
        ConfigurationError: `dimensions` is not between 1 and 16,000.
    """

    def __init__(self, dimensions: int = 384) -> None:
        self._model = hash_model(dimensions)

    @property
    def model(self) -> Model:
        return self._model

    @property
    def free(self) -> bool:
        return True

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """Embed `texts` of any length; `purpose` has no effect."""
        dimensions = self._model.dimensions
        vectors = np.empty((len(texts), dimensions), dtype=np.float32)
        step = _COMPONENTS_PER_TURN // dimensions
        for start in range(0, len(texts), step):
            if start:
                await asyncio.sleep(0)
            chunk = slice(start, start + step)
            hash_vectors(texts[chunk], dimensions, out=vectors[chunk])
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return a quarter of each text's characters, rounded up, and at least 1."""
        return [max(1, -(-len(text) // CHARACTERS_PER_TOKEN)) for text in texts]

    def truncate(self, text: str) -> str:
        return text[: MAX_TOKENS * CHARACTERS_PER_TOKEN]

    async def aclose(self) -> None:
        """Do nothing: there are no resources to release."""

    def __repr__(self) -> str:
        return f"HashEmbedder(dimensions={self._model.dimensions})"


def hash_model(dimensions: int) -> Model:
    """Return the Model of a HashEmbedder without creating one."""
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ConfigurationError(
            f"The hash embedder cannot compute {dimensions} dimensions; "
            f"it supports 1 to {MAX_DIMENSIONS}, for example hash@384."
        )
    return Model("hash", "hash", "v1", dimensions, MAX_TOKENS)


def hash_vectors(texts: Sequence[str], dimensions: int, *, out: Vectors | None = None) -> Vectors:
    """Return float32 vectors of shape (len(texts), dimensions), written to `out` if given."""
    vectors = np.empty((len(texts), dimensions), dtype=np.float32) if out is None else out
    seeds = _seeds(texts)
    step = max(1, _COMPONENTS_AT_ONCE // dimensions)
    for start in range(0, len(texts), step):
        rows = slice(start, start + step)
        _expand(seeds[rows], vectors[rows])
    return vectors


def _seeds(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return the SHA-256 digest of each text as four words; lone surrogates pass unchanged."""
    sha256 = hashlib.sha256
    digests = b"".join([sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts])
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 4).astype(np.uint64, copy=False)


def _expand(seeds: NDArray[np.uint64], out: Vectors) -> None:
    """Fill each row of `out` from the first two words of its digest."""
    dimensions = out.shape[1]
    counters = np.arange(1, -(-dimensions // 4) + 1, dtype=np.uint64)
    words = (seeds[:, 1:2] | np.uint64(1)) * counters
    words += seeds[:, 0:1]
    _mix(words)
    words |= _MAKE_ODD
    components = words.astype("<u8", copy=False).view("<i2")[:, :dimensions].astype(np.float64)
    scale = 1.0 / np.sqrt(np.vecdot(components, components))
    out[...] = components
    out *= scale.astype(np.float32)[:, np.newaxis]


def _mix(words: NDArray[np.uint64]) -> None:
    """Apply SplitMix64's finalizer in place, so that each bit depends on every other bit."""
    scratch = np.empty_like(words)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(words, np.uint64(shift), out=scratch)
        words ^= scratch
        words *= np.uint64(factor)
    np.right_shift(words, np.uint64(31), out=scratch)
    words ^= scratch
