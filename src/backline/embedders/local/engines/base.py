"""The seam between the embedder and what computes the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from backline.embedders.local.tokenizers.base import TokenIds
from backline.types import Vectors


class Engine(Protocol):
    """Runs the encoder on one sub-batch. `forward` may be called from `streams` threads at once."""

    @property
    def name(self) -> str:
        """Its name among `ENGINES`, without the precision."""
        ...

    @property
    def precision(self) -> str:
        """The type that matrix products are computed in: "f32" or "bf16"."""
        ...

    @property
    def threads(self) -> int:
        """Processor threads in all."""
        ...

    @property
    def streams(self) -> int:
        """How many sub-batches are worth computing at the same time."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Tokens of a sub-batch at which this engine is fastest."""
        ...

    def forward(self, texts: Sequence[TokenIds]) -> Vectors:
        """Encode, pool and normalise to unit length.

        Args:
            texts: at least one text, each of at least one token.

        Returns:
            float32, shape (len(texts), dimensions).

        Raises:
            RuntimeError: the engine failed.
        """
        ...
