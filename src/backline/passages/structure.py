"""Find the structure of a text: its sections, blocks, sentences, lines and words. Pure functions.

A span is a pair of character positions. Spans have no white space at their ends, and between two
of them there is nothing else, except the lines of headings.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, NamedTuple, TypeAlias

Span: TypeAlias = tuple[int, int]

_LINE: Final = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")
_HEADING: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?\s*$")
_UNDERLINE: Final = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_LISTING: Final = re.compile(r" {0,3}(?:`{3}|~{3}|\||[-*+][ \t]|\d+[.)][ \t])|\t| {4}")
_SENTENCE_END: Final = re.compile(
    r"[.!?…][\"'”’»)\]]*\s+"  # noqa: RUF001  quotation marks
    r"|[。！？．][」』”’）]*\s*"  # noqa: RUF001  Chinese and Japanese marks
)
_WORD: Final = re.compile(r"\S+")
# Every so many words, or characters of a long word, begin a fragment.
FRAGMENT: Final = 4
LONGEST_WORD: Final = 60

Kind: TypeAlias = Literal["prose", "listing"]


class Block(NamedTuple):
    """A paragraph, a list, a table or a fenced block."""

    start: int
    end: int
    kind: Kind


@dataclass(slots=True)
class Section:
    """Blocks under one heading. `titles` are those of the headings above it and its own."""

    titles: tuple[str, ...] = ()
    blocks: list[Block] = field(default_factory=list)


class _Heading(NamedTuple):
    start: int
    end: int
    level: int
    title: str


def sections(text: str, *, headings: bool) -> list[Section]:
    """Return the sections of a text; one without a title unless `headings`.

    A heading without a text below it is a block of the section above.
    """
    found: list[Section] = []
    open_headings: list[_Heading] = []
    unused: list[_Heading] = []  # headings that no block has followed
    for part in _parts(text, headings=headings):
        if isinstance(part, _Heading):
            while open_headings and open_headings[-1].level >= part.level:
                closed = open_headings.pop()
                _keep_unused(found, unused, open_headings, closed)
            open_headings.append(part)
            unused.append(part)
            continue
        titles = _titles(open_headings)
        if unused or not found:
            found.append(Section(titles))
            unused.clear()
        found[-1].blocks.append(part)
    while open_headings:
        closed = open_headings.pop()
        _keep_unused(found, unused, open_headings, closed)
    return found


def _keep_unused(
    found: list[Section], unused: list[_Heading], above: list[_Heading], closed: _Heading
) -> None:
    """Make a heading that is closed without a text a block of its own."""
    if unused and unused[-1] is closed:
        block = Block(closed.start, closed.end, "prose")
        found.append(Section(_titles(above), [block]))
        unused.clear()  # the titles above it are in those of this section


def _titles(headings: Iterable[_Heading]) -> tuple[str, ...]:
    return tuple(heading.title for heading in headings if heading.title)


def _parts(text: str, *, headings: bool) -> Iterator[_Heading | Block]:
    """Yield the headings and the blocks of a text."""
    lines = [match.span() for match in _LINE.finditer(text) if match.end() > match.start()]
    at = 0
    while at < len(lines):
        begin = at
        heading = _heading(text, lines, at) if headings else None
        if heading is not None:
            yield heading[0]
            at = heading[1]
            continue
        fence = _FENCE.match(text, *lines[at]) if headings else None
        if fence is not None:
            at = _end_of_fence(text, lines, at, fence[1])
        elif _is_blank(text, lines[at]):
            at += 1
            continue
        else:
            at = _end_of_block(text, lines, at, headings=headings)
        start, end = trimmed(text, (lines[begin][0], lines[at - 1][1]))
        if start < end:
            listing = _LISTING.match(text, *lines[begin])
            yield Block(start, end, "listing" if listing else "prose")


def _heading(text: str, lines: list[Span], at: int) -> tuple[_Heading, int] | None:
    """Return the heading at a line, and the number of the next line."""
    start, end = trimmed(text, lines[at])
    if match := _HEADING.match(text, *lines[at]):
        title = " ".join((match[2] or "").split())
        return _Heading(start, end, len(match[1]), title), at + 1
    if start < end and at + 1 < len(lines) and not _LISTING.match(text, *lines[at]):
        line = text[slice(*lines[at + 1])].rstrip("\r\n")
        if match := _UNDERLINE.match(line):
            level = 1 if match[1][0] == "=" else 2
            title = " ".join(text[start:end].split())
            return _Heading(start, trimmed(text, lines[at + 1])[1], level, title), at + 2
    return None


def _end_of_fence(text: str, lines: list[Span], at: int, opening: str) -> int:
    closing = re.compile(rf" {{0,3}}{opening[0]}{{{len(opening)},}}\s*$")
    for number in range(at + 1, len(lines)):
        if closing.match(text, *lines[number]):
            return number + 1
    return len(lines)


def _end_of_block(text: str, lines: list[Span], at: int, *, headings: bool) -> int:
    """Return the number of the line after the block that begins at a line."""
    for number in range(at + 1, len(lines)):
        if _is_blank(text, lines[number]) or (
            headings
            and (_HEADING.match(text, *lines[number]) or _FENCE.match(text, *lines[number]))
        ):
            return number
    return len(lines)


def _is_blank(text: str, line: Span) -> bool:
    start, end = trimmed(text, line)
    return start == end


def has_headings(text: str) -> bool:
    """Return whether a text has a line that Markdown reads as a heading."""
    return any(isinstance(part, _Heading) for part in _parts(text, headings=True))


def trimmed(text: str, span: Span) -> Span:
    """Return a span without the white space at its ends."""
    start, end = span
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    return start, max(start, end - len(inside) + len(inside.rstrip()))


def sentences(text: str, span: Span) -> list[Span]:
    """Return the sentences of a span."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text, *span)]
    return _between(text, span, ends)


def lines(text: str, span: Span) -> list[Span]:
    """Return the lines of a span that are not blank."""
    return _between(text, span, [match.end() for match in _LINE.finditer(text, *span)])


def fragments(text: str, span: Span) -> list[Span]:
    """Return fragments of a few words. The words decide where one begins, not their number."""
    found = [match.span() for match in _WORD.finditer(text, *span)]
    starts = [start for start, end in found if _begins(text[start:end])]
    for start, end in found:
        if end - start > LONGEST_WORD:
            starts += _cuts_in_word(text, start, end)
    return _between(text, span, sorted(starts))


def _begins(word: str) -> bool:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % FRAGMENT == 0


def _cuts_in_word(text: str, start: int, end: int) -> list[int]:
    """Return positions in a text without spaces. None separates a character from its marks."""
    return [
        at
        for at in range(start + 3, end)
        if _begins(text[at - 3 : at + 1])
        and not unicodedata.category(text[at]).startswith(("M", "C", "Sk"))
        and text[at - 1] != "\u200d"
        and not 0x1F3FB <= ord(text[at]) <= 0x1F3FF
    ]


def _between(text: str, span: Span, cuts: Iterable[int]) -> list[Span]:
    """Return the parts of a span between positions, without blank ones."""
    bounds = [span[0], *(cut for cut in cuts if span[0] < cut < span[1]), span[1]]
    parts = [trimmed(text, part) for part in pairwise(bounds)]
    return [part for part in parts if part[0] < part[1]]
