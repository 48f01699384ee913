from __future__ import annotations

import time
from pathlib import Path

import pytest

from backline.embedders.local.tokenizer import TextTokenizer
from backline.errors import WeightsError


@pytest.fixture(scope="module")
def tokenizer(minilm_folder: Path) -> TextTokenizer:
    return TextTokenizer(minilm_folder / "tokenizer.json", 256)


def test_encodes_with_special_tokens_and_without_padding(tokenizer: TextTokenizer) -> None:
    encoded = tokenizer.encode(["my vocals sound muddy", ""])
    assert encoded[0].tolist()[0] == 101
    assert encoded[0].tolist()[-1] == 102
    assert encoded[1].tolist() == [101, 102]


def test_cuts_at_the_limit_and_keeps_the_closing_token(tokenizer: TextTokenizer) -> None:
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
def test_text_that_utf8_cannot_hold_is_read(tokenizer: TextTokenizer, text: str) -> None:
    assert len(tokenizer.encode([text])[0]) == tokenizer.count([text])[0] >= 2
    assert tokenizer.truncate(text) == text


@pytest.mark.parametrize("count", [1, 100, 254, 255, 256, 1_000])
def test_count_is_taken_before_any_cut(tokenizer: TextTokenizer, count: int) -> None:
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
def test_truncate_gives_the_beginning_that_is_encoded(tokenizer: TextTokenizer, text: str) -> None:
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
        # 4,000 characters in 250 tokens, then a word that is one unknown token only if seen whole
        "characteristics " * 250 + "xz" * 150 + " tail" * 20,
    ],
)
def test_reading_only_the_beginning_of_a_long_text_changes_nothing(
    tokenizer: TextTokenizer, text: str
) -> None:
    whole = tokenizer._tokenizer.encode(text).ids
    assert tokenizer.encode([text])[0].tolist() == whole


def test_long_prose_is_not_tokenised_whole(tokenizer: TextTokenizer) -> None:
    text = "my vocals sound muddy, what do I do? " * 30_000
    started = time.perf_counter()
    tokenizer.encode([text])
    beginning = time.perf_counter() - started
    tokenizer.count([text])
    assert beginning < (time.perf_counter() - started) / 5


def test_unreadable_tokenizer_is_a_weights_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="no readable tokenizer"):
        TextTokenizer(tmp_path / "tokenizer.json", 256)
