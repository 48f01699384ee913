"""Texts are split where their structure says, and an edit moves few boundaries."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backline.collections import declared_splitting
from backline.errors import UsageError
from backline.passages import Piece, split
from backline.passages.structure import sections
from backline.types import Model, PassageUnit, Splitting

UNITS: tuple[PassageUnit, ...] = ("auto", "paragraphs", "markdown", "sentences", "tokens")
MODEL = Model("local", "small", "1", 384, 256)
DOCUMENT = """# Console

Read this first.

## Faders

Each channel has one.

They are long.

## Meters

| meter | shows |
|---|---|
| VU | loudness |

```
# not a heading

code
```

Effects
-------

Reverb, and delay.

## Empty
"""
# Pieces of text that a splitter may stumble over.
TRICKY = st.sampled_from(
    [
        *"\r\n\t #\u00a0\u2028\u0085\u200b\u202e\ufeff\uff01。", "\r\n", "\n\n", "# T", "## T\n",
        "---\n", "===\n", "```\n", "~~~", "| a | b |\n", "- item\n", "1. item\n", "    code\n",
        "e\u0301", "这是一个没有空格的长句子", "日本語の文章です。", "ไทยไม่มีช่องว่าง", "مرحبا",
        "\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308", "word", "A sentence. ",
        "Really?! ", "x" * 90, "<p>html</p>",
    ]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=400), st.lists(TRICKY, max_size=120).map("".join))


def count(texts: Sequence[str]) -> list[int]:
    """Count words and marks as tokens, and two more for each text, as BERT does."""
    return [2 + len(re.findall(r"\w{1,6}|[^\w\s]", text)) for text in texts]


def whole(text: str, pieces: Sequence[Piece]) -> str:
    """Return the passages with what lies between them."""
    parts, at = [], 0
    for piece in pieces:
        parts += [text[at : piece.start], text[piece.start : piece.end]]
        at = piece.end
    return "".join(parts) + text[at:]


def embedded(text: str, splitting: Splitting) -> list[str]:
    return [piece.embedded(text) for piece in split(text, splitting, count)]


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, tokens=st.sampled_from([16, 24, 64]))
def test_no_text_is_lost(unit: PassageUnit, text: str, tokens: int) -> None:
    pieces = split(text, Splitting(unit, tokens), count)
    assert whole(text, pieces) == text
    at = 0
    for piece in pieces:
        assert at <= piece.start < piece.end or text == ""
        check_gap(text[at : piece.start], piece.heading)
        at = piece.end
    assert not text[at:].strip()


def check_gap(gap: str, heading: str) -> None:
    """Assert that only white space and headings of the passage below lie between passages."""
    for line in re.split(r"[\r\n]+", gap):
        title = " ".join(re.sub(r"^ {0,3}#{1,6}|\s#+\s*$", "", line).split())
        if title and not re.fullmatch(r"[=-]+|#+", title):
            assert title[:3] in heading


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=100, deadline=None)
@given(text=TEXTS, overlap=st.sampled_from([0, 8]))
def test_passages_fit(unit: PassageUnit, text: str, overlap: int) -> None:
    for passage in embedded(text, Splitting(unit, 32, overlap)):
        # Tokens do not add up exactly where a long word is cut, or where a passage overlaps.
        assert count([passage])[0] <= 32 + overlap + 1


def test_markdown_structure_is_followed() -> None:
    found = split(DOCUMENT, Splitting("markdown", 36), count)
    assert [(piece.heading, DOCUMENT[piece.start : piece.end]) for piece in found] == [
        ("Console", "Read this first."),
        ("Console > Faders", "Each channel has one.\n\nThey are long."),
        ("Console > Meters", "| meter | shows |\n|---|---|\n| VU | loudness |"),
        ("Console > Meters", "```\n# not a heading\n\ncode\n```"),
        ("Console > Effects", "Reverb, and delay."),
        ("Console", "## Empty"),
    ]
    assert found[0].embedded(DOCUMENT) == "Console\nRead this first."


def test_headings_are_no_structure_of_paragraphs() -> None:
    found = split(DOCUMENT, Splitting("paragraphs", 16), count)
    assert {piece.heading for piece in found} == {""}
    assert DOCUMENT[found[0].start : found[0].end].startswith("# Console")


def test_auto_reads_markdown_only_with_headings() -> None:
    assert split(DOCUMENT, Splitting("auto", 24), count) == split(
        DOCUMENT, Splitting("markdown", 24), count
    )
    plain = "One.\n\n- not a heading\n\n    #! nor this\n" * 10
    assert split(plain, Splitting("auto", 24), count) == split(
        plain, Splitting("paragraphs", 24), count
    )


def test_setext_headings_and_crlf() -> None:
    text = "Title\r\n=====\r\n\r\nBody one.\r\n\r\nPart\r\n----\r\n\r\nBody two.\r\n"
    assert [(section.titles, len(section.blocks)) for section in sections(text, headings=True)] == [
        (("Title",), 1),
        (("Title", "Part"), 1),
    ]


def test_long_heading_is_cut() -> None:
    text = f"# {'very ' * 50}long\n\n" + "A sentence of the text. " * 20
    for passage in embedded(text, Splitting("markdown", 32)):
        assert count([passage])[0] <= 32


def test_overlap_repeats_the_end_of_the_passage_before() -> None:
    text = " ".join(f"Sentence number {n} is here." for n in range(60))
    pieces = split(text, Splitting("sentences", 48, 12), count)
    assert len(pieces) > 3
    for before, after in pairwise(pieces):
        assert before.start < after.start < before.end
        repeated = text[after.start : before.end]
        assert 0 < count([repeated])[0] - 2 <= 18


# --- edits ----------------------------------------------------------------------------------------

RANDOM = random.Random(7)


def paragraph(words: tuple[int, int] = (20, 80)) -> str:
    return " ".join(f"w{RANDOM.randrange(3000)}" for _ in range(RANDOM.randint(*words))) + "."


@pytest.mark.parametrize("unit", ["auto", "paragraphs", "sentences"])
@pytest.mark.parametrize("words", [(5, 30), (20, 80), (60, 120)])
def test_edit_changes_few_passages(unit: PassageUnit, words: tuple[int, int]) -> None:
    splitting = Splitting(unit, 256)
    paragraphs = [paragraph(words) for _ in range(120)]
    before = set(embedded("\n\n".join(paragraphs), splitting))
    edits = [
        edited
        for at in range(0, 120, 2)
        for edited in (
            [*paragraphs[:at], paragraph(words), *paragraphs[at + 1 :]],
            [*paragraphs[:at], paragraph(words), *paragraphs[at:]],
            [*paragraphs[:at], *paragraphs[at + 1 :]],
        )
    ]
    changed = [len(set(embedded("\n\n".join(each), splitting)) - before) for each in edits]
    assert max(changed) <= 4
    assert sum(each > 3 for each in changed) <= 0.01 * len(changed)
    assert sum(changed) <= 1.6 * len(changed)


def test_edit_of_running_text_changes_few_passages() -> None:
    words = [f"w{RANDOM.randrange(3000)}" for _ in range(4000)]
    splitting = Splitting("tokens", 128)
    before = set(embedded(" ".join(words), splitting))
    for at in range(0, 4000, 160):
        changed = set(embedded(" ".join([*words[:at], "new", *words[at:]]), splitting)) - before
        assert len(changed) <= 3


# --- declarations ---------------------------------------------------------------------------------


def test_default_length_is_what_the_model_reads() -> None:
    assert declared_splitting(MODEL, "none") is None
    assert declared_splitting(MODEL, "auto") == Splitting("auto", 256, 0)
    assert declared_splitting(Model("o", "l", "1", 8, 8191), "auto") == Splitting("auto", 256, 0)
    assert declared_splitting(Model("o", "s", "1", 8, 128), "auto") == Splitting("auto", 128, 0)


@pytest.mark.parametrize(
    ("unit", "tokens", "overlap", "message"),
    [
        ("words", None, 0, "--passages is 'words'; use auto, paragraphs"),
        ("auto", 257, 0, "must be 16 to 256, which is what the model reads"),
        ("auto", 15, 0, "must be 16 to 256"),
        ("auto", 100, 51, "must be 0 to 50"),
        ("auto", None, -1, "must be 0 to 128"),
        ("none", 100, 0, "Add --passages auto"),
        ("none", None, 5, "Add --passages auto"),
    ],
)
def test_impossible_passages_are_refused(
    unit: str, tokens: int | None, overlap: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        declared_splitting(MODEL, unit, tokens, overlap)
