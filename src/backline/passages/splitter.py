"""Split a text into passages whose boundaries follow the content.

A passage never continues under another heading. Within a section, the units of a passage
(paragraphs, sentences or a few words) are packed up to the limit. The hash of a unit decides
whether a passage begins with it: the hash must be the largest within a third of the limit on
both sides. An edit therefore moves only the boundaries within that distance.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from backline.passages import structure
from backline.passages.structure import Block, Section, Span
from backline.types import Splitting

SEPARATOR: Final = " > "
# The least part of the limit between two boundaries that the content chooses.
SPACING: Final = 3
# The largest part of a passage that its headings may take.
HEADING_SHARE: Final = 4

Count = Callable[[Sequence[str]], list[int]]


class Piece(NamedTuple):
    """A passage of a text: its position in characters, and the headings above it."""

    start: int
    end: int
    heading: str = ""

    def embedded(self, text: str) -> str:
        """Return what is embedded: the headings and the passage of `text`."""
        passage = text[self.start : self.end]
        return f"{self.heading}\n{passage}" if self.heading else passage


def split(text: str, splitting: Splitting, count: Count) -> list[Piece]:
    """Return the passages of a text that is longer than a passage may be.

    `count` counts the tokens of texts.
    """
    overhead = count([""])[0]
    counter = _Counter(text, count, overhead if overhead > 1 else 0)
    by = splitting.by
    headings = by == "markdown" or (by == "auto" and structure.has_headings(text))
    pieces: list[Piece] = []
    room = splitting.tokens - overhead
    for section in _units(text, splitting, headings=headings):
        heading = _heading(section.titles, room // HEADING_SHARE, counter)
        limit = max(1, room - splitting.overlap - counter.text(f"{heading}\n" if heading else ""))
        spans = [span for part in _packed(counter, section.blocks, limit) for span in part]
        pieces += _overlapped(text, spans, heading, splitting.overlap, counter)
    return pieces or [Piece(0, len(text))]


@dataclass(slots=True)
class _Counter:
    """Counts the tokens of parts of a text, without those that the model adds to each text."""

    whole: str
    count: Count
    overhead: int

    def text(self, text: str) -> int:
        return max(0, self.count([text])[0] - self.overhead) if text else 0

    def spans(self, spans: Sequence[Span]) -> list[int]:
        """Return the tokens of each span with the white space up to the next one."""
        ends = [*(start for start, _ in spans[1:]), spans[-1][1]]
        texts = [self.whole[start:end] for (start, _), end in zip(spans, ends, strict=True)]
        return [max(1, tokens - self.overhead) for tokens in self.count(texts)]


def _units(text: str, splitting: Splitting, *, headings: bool) -> list[Section]:
    """Return the sections of a text with the units to pack as their blocks."""
    if splitting.by == "tokens":
        parts = structure.fragments(text, structure.trimmed(text, (0, len(text))))
        return [Section((), [Block(*part, "prose") for part in parts])]
    found = structure.sections(text, headings=headings)
    if splitting.by == "sentences":
        for section in found:
            section.blocks = [
                Block(*part, "prose")
                for block in section.blocks
                for part in structure.sentences(text, block[:2])
            ]
    return found


def _heading(titles: Sequence[str], limit: int, counter: _Counter) -> str:
    """Return the path of headings within a limit: the lowest ones, the last one cut."""
    while titles:
        path = SEPARATOR.join(titles)
        tokens = counter.text(path)
        if tokens <= limit:
            return path
        if len(titles) == 1:
            return path[: len(path) * limit // tokens].rstrip()
        titles = titles[1:]
    return ""


def _packed(counter: _Counter, blocks: Sequence[Block], limit: int) -> list[list[Span]]:
    """Return the spans of passages, in lists of neighbours.

    A block longer than the limit is split at its next level and shares no passage with others.
    """
    found: list[list[Span]] = []
    run: list[Span] = []
    sizes: list[int] = []
    tokens = counter.spans([block[:2] for block in blocks]) if blocks else []
    for block, size in zip(blocks, tokens, strict=True):
        if size <= limit:
            run.append(block[:2])
            sizes.append(size)
            continue
        found += [_pack(counter.whole, run, sizes, limit), *_split_long(counter, block, limit)]
        run, sizes = [], []
    return [part for part in [*found, _pack(counter.whole, run, sizes, limit)] if part]


def _split_long(counter: _Counter, block: Block, limit: int) -> list[list[Span]]:
    """Return the passages of a block that is longer than the limit."""
    text, span = counter.whole, block[:2]
    finer = [structure.sentences, structure.lines, structure.fragments]
    if block.kind == "listing":
        finer = [structure.lines, structure.sentences, structure.fragments]
    for parts_of in finer:
        parts = parts_of(text, span)
        if len(parts) > 1:
            return _packed(counter, [Block(*part, "prose") for part in parts], limit)
    half = (span[0] + span[1]) // 2
    if half == span[0]:
        return [[span]]
    halves = [Block(span[0], half, "prose"), Block(half, span[1], "prose")]
    return _packed(counter, halves, limit)


def _pack(text: str, spans: Sequence[Span], sizes: Sequence[int], limit: int) -> list[Span]:
    """Return the spans of passages of at most `limit` tokens."""
    if not spans:
        return []
    at = [0, *accumulate(sizes)]  # the position of each unit, in tokens
    ranks = [_rank(text[start:end]) for start, end in spans]
    bounds = [0, *_chosen(at, ranks, limit), len(spans)]
    passages: list[Span] = []
    for first, last in pairwise(bounds):
        cuts = _halved(at, ranks, first, last, limit)
        edges = [first, *cuts, last]
        passages += [(spans[a][0], spans[b - 1][1]) for a, b in pairwise(edges)]
    return passages


def _rank(unit: str) -> bytes:
    return hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _chosen(at: Sequence[int], ranks: Sequence[bytes], limit: int) -> list[int]:
    """Return the units that begin a passage because no neighbour has a higher rank."""
    if at[-1] <= limit:
        return []
    near = max(1, limit // SPACING)
    chosen = []
    for unit in range(1, len(ranks)):
        if at[unit] < near or at[-1] - at[unit] < near:
            continue
        low = max(1, bisect_left(at, at[unit] - near + 1))
        high = min(len(ranks), bisect_left(at, at[unit] + near))
        if all(ranks[unit] > ranks[j] for j in range(low, high) if j != unit):
            chosen.append(unit)
    return chosen


def _halved(
    at: Sequence[int], ranks: Sequence[bytes], first: int, last: int, limit: int
) -> list[int]:
    """Return where to cut the units from `first` to `last`, so that no passage is too long."""
    size = at[last] - at[first]
    if size <= limit or last - first == 1:
        return []
    inner = range(first + 1, last)
    middle = [unit for unit in inner if size <= 4 * (at[unit] - at[first]) <= 3 * size]
    if middle:
        cut = max(middle, key=lambda unit: (ranks[unit], unit))
    else:
        cut = min(inner, key=lambda unit: abs(2 * (at[unit] - at[first]) - size))
    return [
        *_halved(at, ranks, first, cut, limit), cut, *_halved(at, ranks, cut, last, limit)
    ]  # fmt: skip


def _overlapped(
    text: str, spans: Sequence[Span], heading: str, overlap: int, counter: _Counter
) -> list[Piece]:
    """Return passages that begin about `overlap` tokens before their span, at a word."""
    if not overlap or not spans:
        return [Piece(start, end, heading) for start, end in spans]
    tokens = counter.spans(spans)
    pieces = [Piece(*spans[0], heading)]
    for (before, until), size, (start, end) in zip(spans, tokens, spans[1:], strict=False):
        repeated = structure.fragments(
            text, (max(before, until - _share(before, until, overlap, size)), until)
        )
        pieces.append(Piece(repeated[0][0] if repeated else start, end, heading))
    return pieces


def _share(start: int, end: int, overlap: int, size: int) -> int:
    """Return about how many characters of a span of `size` tokens have `overlap` tokens."""
    return (end - start) * overlap // size
