"""The interface of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
"""Token ids of one text, shape (tokens,), including special tokens."""


class TextTokenizer(Protocol):
    """Encodes texts to at most `max_tokens` ids, counts tokens, and truncates texts.

    Special tokens in the input are handled as in the reference implementation: "[SEP]" is the
    model's separator, and foreign ones such as "<|endoftext|>" are plain punctuation and letters.
    Neither raises. Several threads may call a tokenizer at the same time.
    """

    max_tokens: int

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[TokenIds]:
        """Return the ids of `prefix` + each text, truncated to `max_tokens`."""
        ...

    def count(self, texts: Sequence[str], prefix: str = "") -> list[int]:
        """Count the tokens of each text before truncation, including special tokens."""
        ...

    def count_and_encode(
        self, texts: Sequence[str], prefix: str = ""
    ) -> tuple[list[int], list[TokenIds]]:
        """Return the results of `count` and `encode`, and tokenize only once."""
        ...

    def truncate(self, text: str, prefix: str = "") -> str:
        """Return the longest prefix of `text` that fits into `max_tokens` after `prefix`."""
        ...
