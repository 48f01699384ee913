"""The interface of an engine that computes the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from backline.embedders.local.tokenizers.base import TokenIds
from backline.types import Vectors


class Engine(Protocol):
    """Runs the encoder on one sub-batch. Up to `streams` threads may call `forward` at a time."""

    @property
    def name(self) -> str:
        """Name in `ENGINES`, without the precision."""
        ...

    @property
    def precision(self) -> str:
        """Type of the matrix products: "f32" or "bf16"."""
        ...

    @property
    def threads(self) -> int:
        """Total number of processor threads."""
        ...

    @property
    def streams(self) -> int:
        """Number of sub-batches to compute concurrently."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Tokens a sub-batch at which this engine is fastest."""
        ...

    def forward(self, texts: Sequence[TokenIds]) -> Vectors:
        """Encode, pool and normalize to unit length.

        Args:
            texts: at least one text, each of at least one token.

        Returns:
            float32, shape (len(texts), dimensions).

        Raises:
            RuntimeError: the engine failed.
        """
        ...
