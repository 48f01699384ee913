"""Tokenize with Hugging Face's `tokenizers`, for models without BERT's WordPiece."""

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
"""Prose has 4 to 5 characters a token, so 16 a token nearly always hold enough tokens."""


class HuggingFaceTokenizer:
    """A `TextTokenizer` for every kind of tokenizer.json that the library supports."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise WeightsError(f"{path} is not a readable tokenizer: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._specials = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self.max_tokens = max_tokens

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[TokenIds]:
        inputs = [self._relevant_part(prefix + text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(inputs)
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def count(self, texts: Sequence[str], prefix: str = "") -> list[int]:
        return self.count_and_encode(texts, prefix)[0]

    def count_and_encode(
        self, texts: Sequence[str], prefix: str = ""
    ) -> tuple[list[int], list[TokenIds]]:
        encodings = self._tokenizer.encode_batch_fast(
            [_well_formed(prefix + text) for text in texts]
        )
        counts = [self._full_length(encoding) for encoding in encodings]
        return counts, [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def truncate(self, text: str, prefix: str = "") -> str:
        encoding = self._tokenizer.encode(_well_formed(prefix + text))
        if not encoding.overflowing:
            return text
        ends = [end for _start, end in encoding.offsets]
        return text[: max(max(ends) - len(prefix), 0)]

    def _full_length(self, encoding: Encoding) -> int:
        rest = sum(len(part) - self._specials for part in encoding.overflowing)
        return len(encoding) + rest

    def _relevant_part(self, text: str) -> str:
        """Return a prefix of a long text that determines its first `max_tokens` ids.

        Every supported tokenizer splits at white space first, so a prefix that ends there has the
        same first ids as the text. If the prefix holds too few tokens, return the whole text.
        """
        limit = self.max_tokens * _CHARACTERS_PER_TOKEN
        if len(text) <= limit:
            return _well_formed(text)
        cut = max(text.rfind(" ", 0, limit), 0)
        beginning = _well_formed(text[:cut])
        if self._tokenizer.encode_batch_fast([beginning])[0].overflowing:
            return beginning
        return _well_formed(text)


def _well_formed(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD. Offsets do not change."""
    return _SURROGATE.sub("\ufffd", text)
