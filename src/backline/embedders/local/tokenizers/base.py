"""The seam between the embedder and what turns text into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
"""The ids of one text, shape (tokens,), special tokens included."""


class TextTokenizer(Protocol):
    """Encodes texts to at most `max_tokens` ids, counts tokens, and finds where a text is cut off.

    Special-token text in the input is read as the reference implementation reads it: "[SEP]" is
    the model's separator, foreign ones such as "<|endoftext|>" are plain punctuation and letters.
    Neither raises. Safe to call from several threads at once.
    """

    max_tokens: int

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[TokenIds]:
        """Ids of `prefix` + each text, cut off at `max_tokens`."""
        ...

    def count(self, texts: Sequence[str], prefix: str = "") -> list[int]:
        """Tokens of each text before any cut, special tokens included."""
        ...

    def count_and_encode(
        self, texts: Sequence[str], prefix: str = ""
    ) -> tuple[list[int], list[TokenIds]]:
        """What `count` and `encode` give, for the price of one."""
        ...

    def truncate(self, text: str, prefix: str = "") -> str:
        """The longest beginning of `text` that is encoded whole behind `prefix`."""
        ...
