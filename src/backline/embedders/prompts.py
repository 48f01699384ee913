"""Put a model's prefixes before its texts, for every embedder that does not do so itself."""

from __future__ import annotations

from collections.abc import Sequence

from backline.embedders.base import Embedder
from backline.embedders.registry import Prompts
from backline.types import Model, Purpose, Vectors


class PrefixedEmbedder:
    """Implements `Embedder` over another one that sends texts as they are."""

    def __init__(self, inner: Embedder, prompts: Prompts) -> None:
        self._inner = inner
        self._prompts = prompts
        # A text may be truncated before it is known to be a query.
        self._longest = max(prompts.query, prompts.passage, key=len)

    @property
    def model(self) -> Model:
        return self._inner.model

    @property
    def free(self) -> bool:
        return self._inner.free

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """See `Embedder.embed`."""
        prefix = self._prompts.prefix(purpose)
        return await self._inner.embed([prefix + text for text in texts], purpose=purpose)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See `Embedder.count_tokens`. The counts include the longer prefix."""
        return self._inner.count_tokens([self._longest + text for text in texts])

    def truncate(self, text: str) -> str:
        """See `Embedder.truncate`. Leaves room for the longer prefix."""
        return self._inner.truncate(self._longest + text)[len(self._longest) :]

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __repr__(self) -> str:
        return f"PrefixedEmbedder({self._inner!r})"


def with_prompts(embedder: Embedder, prompts: Prompts) -> Embedder:
    """Return an embedder that puts the prefixes of `prompts` before its texts."""
    return PrefixedEmbedder(embedder, prompts) if prompts.query or prompts.passage else embedder
