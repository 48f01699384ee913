"""The contract of every tokenizer: ours, and the library's, the reference for ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from backline.embedders.local.load import open_tokenizer
from backline.embedders.local.tokenizers.base import TextTokenizer
from backline.embedders.local.tokenizers.huggingface import HuggingFaceTokenizer
from backline.embedders.local.tokenizers.wordpiece import WordPieceTokenizer, read_settings
from backline.errors import WeightsError


@pytest.fixture(scope="module", params=["wordpiece", "library"])
def tokenizer(request: pytest.FixtureRequest, minilm_folder: Path) -> TextTokenizer:
    path = minilm_folder / "tokenizer.json"
    if request.param == "library":
        return HuggingFaceTokenizer(path, 256)
    opened = open_tokenizer(path, 256)
    assert isinstance(opened, WordPieceTokenizer)
    return opened


@pytest.fixture(scope="module")
def reference(minilm_folder: Path) -> Tokenizer:
    """The library without our wrapper."""
    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    return tokenizer


def test_ids_have_special_tokens_and_no_padding(tokenizer: TextTokenizer) -> None:
    encoded = tokenizer.encode(["my vocals sound muddy", ""])
    assert encoded[0].tolist()[0] == 101
    assert encoded[0].tolist()[-1] == 102
    assert encoded[1].tolist() == [101, 102]


def test_long_text_is_truncated_before_the_closing_token(tokenizer: TextTokenizer) -> None:
    (ids,) = tokenizer.encode(["mud " * 1_000])
    assert len(ids) == 256
    assert ids[-1] == 102


def test_prefix_is_part_of_the_input(tokenizer: TextTokenizer) -> None:
    assert (
        tokenizer.encode(["drums"], "query: ")[0].tolist()
        == tokenizer.encode(["query: drums"])[0].tolist()
    )
    assert tokenizer.count(["drums"], "query: ") == tokenizer.count(["query: drums"])


@pytest.mark.parametrize("text", ["[SEP]", "<|endoftext|>", "a [MASK] b", "</s>", "[PAD] [CLS]"])
def test_special_token_text_is_harmless(tokenizer: TextTokenizer, text: str) -> None:
    alone, other = tokenizer.encode([text, "kick drum"])
    assert len(alone) == tokenizer.count([text])[0]
    assert other.tolist() == tokenizer.encode(["kick drum"])[0].tolist()


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83c\udfa4", "nul\x00", "\U0001f3a4"])
def test_text_with_lone_surrogates_is_tokenized(tokenizer: TextTokenizer, text: str) -> None:
    assert len(tokenizer.encode([text])[0]) == tokenizer.count([text])[0] >= 2
    assert tokenizer.truncate(text) == text


@pytest.mark.parametrize("count", [1, 100, 254, 255, 256, 1_000])
def test_count_precedes_truncation(tokenizer: TextTokenizer, count: int) -> None:
    assert tokenizer.count(["mud " * count]) == [count + 2]


@pytest.mark.parametrize(
    "text",
    [
        "short",
        "mud " * 254,
        "mud " * 300,
        "déjà vu 🎤 " * 200,
        "ボーカルがこもって聞こえます。" * 60,
        "a\ud800b " * 300,
        "supercalifragilisticexpialidocious " * 60,
    ],
)
def test_truncate_returns_the_encoded_prefix(tokenizer: TextTokenizer, text: str) -> None:
    kept = tokenizer.truncate(text)
    assert text.startswith(kept)
    assert tokenizer.count([kept])[0] <= 256
    assert tokenizer.encode([kept])[0].tolist() == tokenizer.encode([text])[0].tolist()
    if tokenizer.count([text])[0] <= 256:
        assert kept == text


def test_truncate_leaves_room_for_the_prefix(tokenizer: TextTokenizer) -> None:
    kept = tokenizer.truncate("mud " * 300, "passage: ")
    assert kept == ("mud " * 252).strip()


@pytest.mark.parametrize(
    "text",
    [
        "my vocals sound muddy, what do I do? " * 3_000,
        "x" * 100_000,
        ("x" * 300 + " ") * 330,
        " " * 99_000 + "late words " * 100,
        "…" * 100_000,
        "ボーカル" * 25_000,
        ("word" * 20 + " ") * 1_250,
        # 4,000 characters in 250 tokens, then a word that is one unknown token only as a whole
        "characteristics " * 250 + "xz" * 150 + " tail" * 20,
    ],
)
def test_partial_tokenization_of_a_long_text_has_equal_ids(
    tokenizer: TextTokenizer, reference: Tokenizer, text: str
) -> None:
    assert tokenizer.encode([text])[0].tolist() == reference.encode(text).ids


def test_long_prose_is_tokenized_only_up_to_the_limit(minilm_folder: Path) -> None:
    """Words beyond the limit are not tokenized."""
    own = open_tokenizer(minilm_folder / "tokenizer.json", 256)
    assert isinstance(own, WordPieceTokenizer)
    own.encode(["my vocals sound muddy " * 3_000 + "unlooked"])
    assert "muddy" in own._cache
    assert "unlooked" not in own._cache


def test_unreadable_tokenizer_is_a_weights_error(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for content in ("{}", "not JSON", '{"model": 3}'):
        path.write_text(content)
        with pytest.raises(WeightsError, match=r"tokenizer\.json"):
            open_tokenizer(path, 256)


# --- choice of the tokenizer ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def described(minilm_folder: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((minilm_folder / "tokenizer.json").read_text())
    return raw


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("model", "type", "Unigram"),
        ("normalizer", "type", "Lowercase"),
        ("normalizer", "clean_text", False),
        ("normalizer", "handle_chinese_chars", False),
        ("pre_tokenizer", "type", "Whitespace"),
        ("post_processor", "type", "ByteLevel"),
    ],
)
def test_other_tokenizers_use_the_library(
    described: dict[str, Any], part: str, key: str, value: object
) -> None:
    assert read_settings(described) is not None
    assert read_settings({**described, part: {**described[part], key: value}}) is None


@pytest.mark.parametrize(
    "added", [{"content": "two words"}, {"normalized": True}, {"single_word": True}]
)
def test_other_special_tokens_use_the_library(
    described: dict[str, Any], added: dict[str, Any]
) -> None:
    first, *rest = described["added_tokens"]
    assert read_settings({**described, "added_tokens": [{**first, **added}, *rest]}) is None


def test_older_form_of_the_post_processor_is_supported(described: dict[str, Any]) -> None:
    older = {"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]}
    settings = read_settings({**described, "post_processor": older})
    assert settings == read_settings(described)
