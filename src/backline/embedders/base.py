"""The seam to every embedding provider: texts in, a float32 matrix out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from backline.types import Model, Purpose, Vectors


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors. Safe to share between tasks of one event loop.

    An embedder never retries and never sleeps: it makes one attempt and raises one of
    `RateLimitedError`, `ProviderUnavailableError`, `InputRejectedError`, `ProviderRefusedError`.
    Retrying, splitting and waiting are the worker's, once for all providers.
    """

    @property
    def model(self) -> Model:
        """The identity that every vector of this embedder is stamped with."""
        ...

    @property
    def free(self) -> bool:
        """True where a vector is cheaper to compute again than to look up in a cache."""
        ...

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """Embed `texts`, in order.

        Returns:
            float32 matrix of shape (len(texts), model.dimensions), finite, every row of unit
            length. An empty sequence gives shape (0, dimensions) and calls nobody.
        """
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model counts them, before any truncation."""
        ...

    def truncate(self, text: str) -> str:
        """The longest beginning of `text` that the model reads whole; `text` itself if it fits."""
        ...

    async def aclose(self) -> None:
        """Release connections and threads. Idempotent."""
        ...


@runtime_checkable
class SharesBatches(Protocol):
    """An embedder that computes the texts of all calls at the same time together, by itself.

    Where `shares_batches` is true, nobody needs to gather calls into larger ones: each is answered
    as soon as its own texts are done.
    """

    @property
    def shares_batches(self) -> bool: ...
