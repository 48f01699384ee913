"""Cut texts into batches for one provider call, and long texts into parts. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

Batch: TypeAlias = tuple[int, ...]
"""Positions in the planned sequence."""


class Item(NamedTuple):
    """The cost of one text.

    Attributes:
        tokens: as counted by the model.
        bytes: length in UTF-8.
    """

    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one call.

    OpenAI refuses a request of more than 300,000 tokens. It applies the limit to the count and to
    an estimate of a quarter of the bytes, so batches keep both.
    """

    max_items: int = 50
    max_tokens: int = 300_000
    max_bytes_over_4: int = 300_000

    def __post_init__(self) -> None:
        if min(self.max_items, self.max_tokens, self.max_bytes_over_4) < 1:
            raise ValueError(f"Every limit of a batch must be at least 1, not {self}.")


def plan(items: Sequence[Item], budget: Budget, *, sort_by_length: bool) -> list[Batch]:
    """Cut `items` into batches within `budget`. An item that exceeds it gets its own batch.

    With `sort_by_length`, batches hold texts of similar length, longest first: a local model pads
    little, and the last batch to finish is a short one. Otherwise the order is kept.
    """
    order: Sequence[int] = range(len(items))
    if sort_by_length:
        order = sorted(order, key=lambda i: (items[i].tokens, items[i].bytes), reverse=True)
    batches: list[Batch] = []
    open_batch = _OpenBatch(budget)
    for index in order:
        if not open_batch.fits(items[index]):
            batches.append(tuple(open_batch.indices))
            open_batch = _OpenBatch(budget)
        open_batch.add(index, items[index])
    if open_batch.indices:
        batches.append(tuple(open_batch.indices))
    return batches


def bisect(batch: Sequence[int]) -> tuple[Batch, Batch]:
    """Halve a batch to isolate the item that makes it fail. The left half is the larger.

    Raises:
        ValueError: the batch has a single item.
    """
    if len(batch) < 2:
        raise ValueError(f"A batch of {len(batch)} cannot be split.")
    middle = (len(batch) + 1) // 2
    return tuple(batch[:middle]), tuple(batch[middle:])


def unique(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Find duplicates, so that equal texts are sent once.

    Returns:
        `firsts`, the index of the first occurrence of each distinct key, in order; and `inverse`,
        the position in `firsts` of every key: `keys[firsts[inverse[i]]] == keys[i]`.
    """
    position: dict[Hashable, int] = {}
    firsts: list[int] = []
    inverse: list[int] = []
    for index, key in enumerate(keys):
        at = position.setdefault(key, len(firsts))
        if at == len(firsts):
            firsts.append(index)
        inverse.append(at)
    return firsts, inverse


def split_text(text: str, max_tokens: int, truncate: Callable[[str], str]) -> list[str]:
    """Split a text into parts that the model reads whole, between words if possible.

    Args:
        text: not blank.
        max_tokens: the most tokens that the model reads.
        truncate: returns the longest prefix of a text that the model reads whole.

    Raises:
        ValueError: not even one character fits.
    """
    parts: list[str] = []
    reach = CHARACTERS_PER_TOKEN * max_tokens
    while text:
        # Truncating the whole rest would tokenize a long text to its end for every part.
        ahead = text[:reach]
        part = truncate(ahead)
        if part == ahead and len(ahead) < len(text):
            reach *= 2
            continue
        if not part:
            raise ValueError(f"No part of {text[:20]!r} has at most {max_tokens} tokens.")
        part = part if part == text else _without_last_word(part)
        if part.strip():
            parts.append(part)
        text = text[len(part) :]
    return parts


CHARACTERS_PER_TOKEN: Final = 8
"""More than the average of any language, so that few parts are truncated twice."""


def _without_last_word(part: str) -> str:
    """Return the part without its last word, which is probably cut, unless nothing remains."""
    end = max(part.rfind(space) for space in " \n\t") + 1
    return part[:end] if part[:end].strip() else part


class _OpenBatch:
    """The batch that is being filled, with its running sums."""

    def __init__(self, budget: Budget) -> None:
        self.indices: list[int] = []
        self._budget = budget
        self._tokens = 0
        self._bytes = 0

    def fits(self, item: Item) -> bool:
        budget = self._budget
        return not self.indices or (
            len(self.indices) < budget.max_items
            and self._tokens + item.tokens <= budget.max_tokens
            and self._bytes + item.bytes <= 4 * budget.max_bytes_over_4
        )

    def add(self, index: int, item: Item) -> None:
        self.indices.append(index)
        self._tokens += item.tokens
        self._bytes += item.bytes
