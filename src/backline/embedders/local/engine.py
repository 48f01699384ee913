"""The seam between the embedder and what computes the encoder."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backline.types import Vectors

IdMatrix = NDArray[np.int32]
"""Token ids of one sub-batch, shape (texts, tokens), padded on the right with any valid id."""


class Engine(Protocol):
    """Runs the encoder on one padded sub-batch. `forward` is called from `streams` threads."""

    @property
    def name(self) -> str:
        """What `--engine` calls it."""
        ...

    @property
    def precision(self) -> str:
        """The type that matrix products are computed in: "f32" or "bf16"."""
        ...

    @property
    def streams(self) -> int:
        """How many sub-batches are worth computing at the same time."""
        ...

    @property
    def threads(self) -> int:
        """Processor threads in all."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of a sub-batch at which this engine is fastest."""
        ...

    def forward(self, ids: IdMatrix, lengths: NDArray[np.int32]) -> Vectors:
        """Encode, pool over the first `lengths[i]` tokens of row i, and normalise to unit length.

        Args:
            ids: shape (texts, tokens).
            lengths: shape (texts,), each from 1 to tokens.

        Returns:
            float32, shape (texts, dimensions).
        """
        ...
