"""Text to token ids by Hugging Face's `tokenizers`, for models whose tokenizer is not BERT's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from backline.embedders.local.tokenizers.base import TokenIds
from backline.errors import WeightsError

_SURROGATE = re.compile("[\ud800-\udfff]")
_CHARACTERS_PER_TOKEN = 16
"""Ordinary prose has 4 to 5 characters a token, so a cut at 16 nearly always holds enough."""


class HuggingFaceTokenizer:
    """A `TextTokenizer` of any kind that the library reads."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise WeightsError(f"{path} is no readable tokenizer: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._specials = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self.max_tokens = max_tokens

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[TokenIds]:
        inputs = [self._beginning(prefix + text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(inputs)
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def count(self, texts: Sequence[str], prefix: str = "") -> list[int]:
        return self.count_and_encode(texts, prefix)[0]

    def count_and_encode(
        self, texts: Sequence[str], prefix: str = ""
    ) -> tuple[list[int], list[TokenIds]]:
        encodings = self._tokenizer.encode_batch_fast([_readable(prefix + text) for text in texts])
        counts = [self._whole_length(encoding) for encoding in encodings]
        return counts, [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def truncate(self, text: str, prefix: str = "") -> str:
        encoding = self._tokenizer.encode(_readable(prefix + text))
        if not encoding.overflowing:
            return text
        ends = [end for _start, end in encoding.offsets]
        return text[: max(max(ends) - len(prefix), 0)]

    def _whole_length(self, encoding: Encoding) -> int:
        rest = sum(len(part) - self._specials for part in encoding.overflowing)
        return len(encoding) + rest

    def _beginning(self, text: str) -> str:
        """As much of a long text as decides its first `max_tokens` ids, or all of it.

        Every supported tokenizer splits at white space first, so a beginning that ends there gives
        the first ids of the whole; if it holds too few tokens, the whole text is needed after all.
        """
        limit = self.max_tokens * _CHARACTERS_PER_TOKEN
        if len(text) <= limit:
            return _readable(text)
        cut = max(text.rfind(" ", 0, limit), 0)
        beginning = _readable(text[:cut])
        if self._tokenizer.encode_batch_fast([beginning])[0].overflowing:
            return beginning
        return _readable(text)


def _readable(text: str) -> str:
    """Lone surrogates, which no UTF-8 can hold, become U+FFFD; every offset stays as it was."""
    return _SURROGATE.sub("\ufffd", text)
