"""BERT's WordPiece tokenizer, configured by a model's tokenizer.json.

It returns the same ids as Hugging Face's `tokenizers`, for every character (tests compare them).
That library and its dependencies take 43 MB, an eighth of the whole installation, and only the
multilingual models need more of it than this.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from backline.embedders.local.tokenizers.base import TokenIds
from backline.embedders.local.tokenizers.characters import (
    CONTROL,
    MARKS,
    PRIVATE,
    PUNCTUATION,
    SPACES,
)

_CACHED_CHUNKS: Final = 32_768
"""Chunks in each of the two generations of the cache, 6 MB each. With a single generation, clearing
it made abstracts, which have 96,000 distinct chunks, four times as slow."""
_LONGEST_CACHED: Final = 48
_SPLIT_TOO: Final = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
"""Characters that `str.split` treats as spaces, but the tokenizer removes like NUL."""
# Blocks that BERT treats as Chinese, so that each character is a word.
_CHINESE: Final = tuple(
    range(first, last + 1)
    for first, last in (
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B920, 0x2CEAF),  # the reference implementation has this typo for 2B820
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    )
)


@dataclass(frozen=True, slots=True)
class WordPieceSettings:
    """The settings of a BERT tokenizer in tokenizer.json.

    Attributes:
        specials: texts that are always one token, each with that token's id.
        before, after: ids at the beginning and the end of every text.
    """

    vocabulary: Mapping[str, int]
    unknown: int
    continuing: str
    longest_word: int
    lowercase: bool
    strip_accents: bool
    specials: Mapping[str, int]
    before: tuple[int, ...]
    after: tuple[int, ...]


def read_settings(raw: Mapping[str, Any]) -> WordPieceSettings | None:
    """Return the settings of a parsed tokenizer.json, or None for another kind of tokenizer."""
    model, normal = raw.get("model") or {}, raw.get("normalizer") or {}
    added, ends = raw.get("added_tokens") or [], _ends(raw.get("post_processor") or {})
    if (
        ends is None
        or model.get("type") != "WordPiece"
        or (raw.get("pre_tokenizer") or {}).get("type") != "BertPreTokenizer"
        or normal.get("type") != "BertNormalizer"
        or not (normal["clean_text"] and normal["handle_chinese_chars"])
        or any(token["normalized"] or token["single_word"] for token in added)
        or any(re.search(r"\s", token["content"]) for token in added)
    ):
        return None
    strip = normal["strip_accents"]
    return WordPieceSettings(
        vocabulary=model["vocab"],
        unknown=model["vocab"][model["unk_token"]],
        continuing=model["continuing_subword_prefix"],
        longest_word=model["max_input_chars_per_word"],
        lowercase=normal["lowercase"],
        strip_accents=normal["lowercase"] if strip is None else strip,
        specials={token["content"]: token["id"] for token in added},
        before=ends[0],
        after=ends[1],
    )


def _ends(post: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the ids before and after a text, or None for an unsupported post-processor."""
    kind = post.get("type")
    if kind == "BertProcessing":
        return (post["cls"][1],), (post["sep"][1],)
    if kind != "TemplateProcessing":
        return None
    parts: list[list[int]] = [[]]
    for piece in post["single"]:
        if "SpecialToken" in piece:
            parts[-1] += post["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
        else:
            parts.append([])
    return (tuple(parts[0]), tuple(parts[1])) if len(parts) == 2 else None


class _Characters(dict[int, str]):
    """Maps characters to their normalized text for `str.translate`, computed on first use.

    Spaces around a character separate it from its neighbours as a word.
    """

    def __init__(self, *, lowercase: bool, strip_accents: bool) -> None:
        self._lowercase = lowercase
        self._strip_accents = strip_accents

    def __missing__(self, code: int) -> str:
        self[code] = normalized = self._normalize(code)
        return normalized

    def _normalize(self, code: int) -> str:
        if code in CONTROL or 0xD800 <= code < 0xE000 or any(code in part for part in PRIVATE):
            return ""
        if code in SPACES:
            return " "
        text = chr(code)
        if self._strip_accents:
            text = unicodedata.normalize("NFD", text)
            text = "".join(part for part in text if ord(part) not in MARKS)
        if self._lowercase:  # character by character, so that the final-sigma rule does not apply
            text = "".join(part.lower() for part in text)
        text = "".join(f" {part} " if ord(part) in PUNCTUATION else part for part in text)
        return f" {text} " if any(code in block for block in _CHINESE) else text


class WordPieceTokenizer:
    """A `TextTokenizer` for BERT's English models.

    No token contains white space, so each chunk between spaces is tokenized once and cached. In
    prose this yields 3 million tokens a second of processor time, against 0.6 million of the
    library. Without repeated words it yields 0.4 million.
    """

    def __init__(self, settings: WordPieceSettings, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._settings = settings
        self._room = max(max_tokens - len(settings.before) - len(settings.after), 0)
        self._characters = _Characters(
            lowercase=settings.lowercase, strip_accents=settings.strip_accents
        )
        longest_first = sorted(settings.specials, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._longest_piece = max(map(len, settings.vocabulary), default=1)
        self._cache: dict[str, tuple[int, ...]] = {}
        self._older: dict[str, tuple[int, ...]] = {}

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[TokenIds]:
        return [self._with_ends(self._first_ids(prefix + text)) for text in texts]

    def count(self, texts: Sequence[str], prefix: str = "") -> list[int]:
        return self.count_and_encode(texts, prefix)[0]

    def count_and_encode(
        self, texts: Sequence[str], prefix: str = ""
    ) -> tuple[list[int], list[TokenIds]]:
        ids = [self._ids(_splittable(prefix + text).split()) for text in texts]
        ends = self.max_tokens - self._room
        return [len(row) + ends for row in ids], [self._with_ends(row) for row in ids]

    def truncate(self, text: str, prefix: str = "") -> str:
        whole, left, end = prefix + text, self._room, 0
        rest = _splittable(whole)
        while rest:
            at = len(whole) - len(rest)
            chunks, after = _first_chunks(rest, self._room)
            fitting, left = self._fitting(chunks, left)
            if fitting:
                end = at + _start(rest, fitting - 1) + len(chunks[fitting - 1])
            if fitting < len(chunks):
                if left:
                    end = at + _start(rest, fitting) + self._end(chunks[fitting], left)
                return text[: max(end - len(prefix), 0)]
            rest = after
        return text

    def _fitting(self, chunks: Sequence[str], room: int) -> tuple[int, int]:
        """Return how many chunks fit into `room` tokens, and the tokens left over."""
        for index, chunk in enumerate(chunks):
            ids = self._cache.get(chunk)
            tokens = len(self._encode_chunk(chunk) if ids is None else ids)
            if tokens > room:
                return index, room
            room -= tokens
        return len(chunks), room

    def _with_ends(self, ids: Sequence[int]) -> TokenIds:
        kept = (*self._settings.before, *ids[: self._room], *self._settings.after)
        return np.array(kept, dtype=np.int32)

    def _first_ids(self, text: str) -> list[int]:
        """Return at least the first `room` ids of a text without tokenizing all of it."""
        rest, ids = _splittable(text), list[int]()
        while rest and len(ids) < self._room:
            chunks, rest = _first_chunks(rest, self._room)
            ids += self._ids(chunks)
        return ids

    def _ids(self, chunks: Sequence[str]) -> list[int]:
        """Return the ids of chunks, which contain no white space."""
        ids, cache = list[int](), self._cache
        for chunk in chunks:
            cached = cache.get(chunk)
            ids += self._encode_chunk(chunk) if cached is None else cached
        return ids

    def _encode_chunk(self, chunk: str) -> tuple[int, ...]:
        """Return the ids of a chunk, and cache them unless the chunk is long."""
        ids = self._older.get(chunk) or tuple(self._chunk_ids(chunk))
        if len(chunk) <= _LONGEST_CACHED:
            if len(self._cache) >= _CACHED_CHUNKS:
                self._cache, self._older = {}, self._cache
            self._cache[chunk] = ids
        return ids

    def _chunk_ids(self, chunk: str) -> Iterator[int]:
        """Yield the ids of a chunk. Most words are in the vocabulary and need no splitting."""
        settings = self._settings
        for part in self._parts(chunk):
            special = settings.specials.get(part)
            if special is not None:
                yield special
                continue
            for word in part.translate(self._characters).split():
                token = settings.vocabulary.get(word)
                if token is not None and len(word) <= settings.longest_word:
                    yield token
                else:
                    yield from (piece for piece, _end in self._pieces(word))

    def _tokens(self, chunk: str) -> Iterator[tuple[int, int]]:
        """Yield ids with their ends in the normalized text of their part of the chunk."""
        for part in self._parts(chunk):
            special = self._settings.specials.get(part)
            if special is not None:
                yield special, len(part)
                continue
            for word in re.finditer("[^ ]+", part.translate(self._characters)):
                for token, end in self._pieces(word[0]):
                    yield token, word.start() + end

    def _parts(self, chunk: str) -> list[str]:
        """Split a chunk into special tokens and the text between them."""
        return self._special.split(chunk) if self._settings.specials else [chunk]

    def _pieces(self, word: str) -> list[tuple[int, int]]:
        """Split a word into the longest pieces of the vocabulary; return their ids and ends."""
        settings, pieces, start = self._settings, list[tuple[int, int]](), 0
        unknown = [(settings.unknown, len(word))]
        if len(word) > settings.longest_word:
            return unknown
        while start < len(word):
            lead = settings.continuing if start else ""
            for end in range(min(len(word), start + self._longest_piece), start, -1):
                token = settings.vocabulary.get(lead + word[start:end])
                if token is not None:
                    pieces.append((token, end))
                    start = end
                    break
            else:
                return unknown
        return pieces

    def _end(self, chunk: str, tokens: int) -> int:
        """Return the end of the first `tokens` tokens in a chunk that has at least as many."""
        at = 0
        for part in self._parts(chunk):
            ends = [end for _token, end in self._tokens(part)]
            if len(ends) >= tokens:
                special = part in self._settings.specials
                return at + (len(part) if special else self._origin(part, ends[tokens - 1]))
            at, tokens = at + len(part), tokens - len(ends)
        return at

    def _origin(self, part: str, end: int) -> int:
        """Return how many characters of `part` the first `end` of its normalized form covers."""
        for at, character in enumerate(part):
            normalized = self._characters[ord(character)]
            if end <= len(normalized):
                return at + (end >= len(normalized.rstrip()))
            end -= len(normalized)
        return len(part)


def _splittable(text: str) -> str:
    """Replace characters that `str.split` would split at but the tokenizer removes."""
    return _SPLIT_TOO.sub("\0", text)


def _first_chunks(text: str, most: int) -> tuple[list[str], str]:
    """Split off at most `most` chunks, but at least one; return them and the rest."""
    most = max(most, 1)
    chunks = text.split(None, most)
    return (chunks, "") if len(chunks) <= most else (chunks[:most], chunks[most])


def _start(text: str, chunk: int) -> int:
    """Return the start of the chunk with that index."""
    return len(text) - len(text.split(None, chunk)[chunk])
