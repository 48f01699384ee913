"""Our WordPiece returns the ids of Hugging Face's `tokenizers`, for every character and text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.local.tiny import write_tiny_model
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from backline.embedders.local.tokenizers import wordpiece
from backline.embedders.local.tokenizers.characters import (
    CONTROL,
    MARKS,
    PRIVATE,
    PUNCTUATION,
    SPACES,
)
from backline.embedders.local.tokenizers.wordpiece import WordPieceTokenizer, read_settings

LIMIT = 24
# All of the two planes in common use and of the tags, and a sample of the others.
MANY = [
    code
    for code in (*range(0xD800), *range(0xE000, 0x110000))
    if code < 0x20000 or code % 61 == 0 or 0xE0000 <= code < 0xE0200
]


class Pair:
    """Our tokenizer and the library's, for one tokenizer.json."""

    def __init__(self, raw: dict[str, Any], limit: int = LIMIT) -> None:
        read = read_settings(raw)
        assert read is not None
        self.own = WordPieceTokenizer(read, limit)
        self.library = Tokenizer.from_str(json.dumps(raw))
        self.library.no_padding()
        self.library.no_truncation()

    def compare(self, text: str) -> None:
        ids = self.library.encode(text).ids
        counts, kept = self.own.count_and_encode([text])
        cut = ids if len(ids) <= LIMIT else [*ids[: LIMIT - 1], ids[-1]]
        assert counts == [len(ids)]
        assert kept[0].tolist() == cut
        assert self.own.encode([text])[0].tolist() == cut


@pytest.fixture(scope="module")
def described(minilm_folder: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((minilm_folder / "tokenizer.json").read_text())
    return raw


@pytest.fixture(scope="module")
def pair(described: dict[str, Any]) -> Pair:
    return Pair(described)


@pytest.fixture(scope="module")
def cased(described: dict[str, Any]) -> Pair:
    normalizer = {**described["normalizer"], "lowercase": False, "strip_accents": False}
    return Pair({**described, "normalizer": normalizer})


def words(codes: Iterable[int]) -> str:
    """Return each character within a word and beside one."""
    return " ".join(f"mu{chr(code)}d" for code in codes)


@pytest.mark.parametrize(("kind", "step"), [("pair", 1), ("cased", 5)])
def test_every_character_matches_the_library(
    kind: str, step: int, request: pytest.FixtureRequest
) -> None:
    both: Pair = request.getfixturevalue(kind)
    codes = MANY[::step]
    for start in range(0, len(codes), 4_000):
        text = words(codes[start : start + 4_000])
        assert (
            both.own._ids(wordpiece._splittable(text).split())
            == both.library.encode(text, add_special_tokens=False).ids
        ), hex(codes[start])


def after_each(normalizer: normalizers.Normalizer) -> dict[int, str]:
    """Return the normalized text of each character after an "a"."""
    text = normalizer.normalize_str("|b|".join(f"a{chr(code)}" for code in MANY))
    return dict(zip(MANY, text.split("|b|"), strict=True))


def test_character_classes_match_the_library() -> None:
    """They must not depend on the Unicode version of Python."""
    nothing = {"handle_chinese_chars": False, "lowercase": False}
    cleaned = after_each(
        normalizers.BertNormalizer(clean_text=True, strip_accents=False, **nothing)
    )
    stripped = after_each(
        normalizers.BertNormalizer(clean_text=False, strip_accents=True, **nothing)
    )
    removed = {code for code, became in cleaned.items() if became == "a"}
    private = {code for code in MANY if any(code in part for part in PRIVATE)}
    assert removed == CONTROL | private
    assert {code for code, became in cleaned.items() if became == "a "} == SPACES
    assert {code for code, became in stripped.items() if became == "a"} == MARKS
    spans = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(
        " ".join(chr(code) * 2 for code in MANY)
    )
    assert {ord(word) for word, _span in spans if len(word) == 1} == PUNCTUATION


PIECES = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["[SEP]", "[MASK]", "[PAD", "##", "ing", "muddy", " ", "\x0b", "\x85", "İΣ", "ﬁ"]
    ),
    st.sampled_from(["한국어", "日本", "e\u0301", "\u200b", "\ufeff", "x" * 101, "🎤", "1,000.5"]),
)
TEXTS = st.lists(PIECES, max_size=14).map("".join)


@given(text=TEXTS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_matches_the_library(pair: Pair, cased: Pair, text: str) -> None:
    readable = text.encode("utf-8", "replace").decode()
    pair.compare(readable)
    cased.compare(readable)


@given(text=TEXTS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncate_keeps_the_longest_prefix_that_fits(pair: Pair, text: str) -> None:
    own = pair.own
    kept = own.truncate(text)
    assert text.startswith(kept)
    assert own.count([kept])[0] <= LIMIT
    if own.count([text])[0] <= LIMIT:
        assert kept == text
    else:
        ids = own.encode([kept])[0].tolist()[:-1]
        assert own.encode([text])[0].tolist()[: len(ids)] == ids
        assert own.count([text[: len(kept) + 1]])[0] > len(ids)


def test_character_of_several_tokens_is_never_split(pair: Pair) -> None:
    text = "한" * 20  # three letters and three tokens each
    kept = pair.own.truncate(text)
    assert pair.own.count([kept])[0] <= LIMIT < pair.own.count([kept + "한"])[0]


def test_lone_surrogates_are_removed_like_their_replacement(pair: Pair) -> None:
    assert pair.own.encode(["mu\ud800ddy"])[0].tolist() == pair.own.encode(["muddy"])[0].tolist()


def test_cache_of_chunks_is_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "_CACHED_CHUNKS", 10)
    pair.own.encode([f"word{i}" for i in range(100)])
    assert len(pair.own._cache) <= 10
    assert len(pair.own._older) <= 10
    pair.own._cache.clear()
    pair.own.encode(["x" * 10_000])
    assert pair.own._cache == {}


def test_frequent_words_stay_cached(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "_CACHED_CHUNKS", 10)
    pair.own._cache.clear()
    pair.own._older.clear()
    encoded: list[str] = []
    chunk_ids = WordPieceTokenizer._chunk_ids

    def record(self: WordPieceTokenizer, chunk: str) -> Iterator[int]:
        encoded.append(chunk)
        return chunk_ids(self, chunk)

    monkeypatch.setattr(WordPieceTokenizer, "_chunk_ids", record)
    for i in range(100):
        pair.own.encode([f"muddy word{i}"])
    assert encoded.count("muddy") == 1


def test_other_vocabulary_matches_the_library(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    both = Pair(json.loads((folder / "tokenizer.json").read_text()))
    for text in ("my vocals", "Überlaut [CLS] pan!", "", "drums123", "żółć"):
        both.compare(text)
