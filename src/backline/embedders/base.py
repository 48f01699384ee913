"""The interface of every embedder: texts in, a float32 matrix out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from backline.types import Model, Purpose, Vectors


@runtime_checkable
class Embedder(Protocol):
    """Computes vectors of texts. Tasks of one event loop may share an embedder.

    An embedder makes one attempt, and raises `RateLimitedError`, `ProviderUnavailableError`,
    `InputRejectedError` or `ProviderRefusedError` if it fails. It never retries or sleeps: the
    worker retries, splits batches and waits, for all providers alike.
    """

    @property
    def model(self) -> Model:
        """The identity that is stored with every vector of this embedder."""
        ...

    @property
    def free(self) -> bool:
        """True if computing a vector again is cheaper than looking it up in the cache."""
        ...

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """Embed `texts`, in order.

        Returns:
            float32 matrix of shape (len(texts), model.dimensions), finite, every row of unit
            length. An empty sequence returns shape (0, dimensions) without a call to the provider.
        """
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text as the model does, before truncation."""
        ...

    def truncate(self, text: str) -> str:
        """Return the longest prefix of `text` within the model's limit, or `text` if it fits."""
        ...

    async def aclose(self) -> None:
        """Release connections and threads. Idempotent."""
        ...


@runtime_checkable
class SharesBatches(Protocol):
    """An embedder that batches texts across concurrent calls.

    If `shares_batches` is true, callers need not merge calls into larger ones. Each call returns as
    soon as its own texts are done.
    """

    @property
    def shares_batches(self) -> bool: ...
