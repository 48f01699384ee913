"""Cutting work into batches that one provider call can carry. Pure: indices in, indices out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

Batch: TypeAlias = tuple[int, ...]
"""Positions in the sequence that was planned."""


class Item(NamedTuple):
    """What the cost of one text is.

    Attributes:
        tokens: as the model counts them.
        bytes: length in UTF-8.
    """

    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What one call carries at most.

    OpenAI refuses a request of over 300,000 tokens, and estimates them as a quarter of the bytes:
    text of few tokens a byte is refused on the estimate, text of many on the count. Both are kept.
    """

    max_items: int = 50
    max_tokens: int = 300_000
    max_bytes_over_4: int = 300_000

    def __post_init__(self) -> None:
        if min(self.max_items, self.max_tokens, self.max_bytes_over_4) < 1:
            raise ValueError(f"Every limit of a batch must be at least 1, not {self}.")


def plan(items: Sequence[Item], budget: Budget, *, sort_by_length: bool) -> list[Batch]:
    """Cut `items` into batches that keep `budget`; an item over it alone makes its own batch.

    With `sort_by_length`, batches hold texts of similar length, longest first, so that a local
    model pads little and the last batch to finish is a short one. Without, the order is kept.
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
    """Halve a batch that was rejected, to find the culprit. The left half is the larger.

    Raises:
        ValueError: the batch has a single item, which is the culprit itself.
    """
    if len(batch) < 2:
        raise ValueError(f"A batch of {len(batch)} cannot be split.")
    middle = (len(batch) + 1) // 2
    return tuple(batch[:middle]), tuple(batch[middle:])


def unique(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Find duplicates, so that the same text is sent once.

    Returns:
        `firsts`, where each different key first stands, in order; and `inverse`, for each key its
        position in `firsts`. `keys[firsts[inverse[i]]] == keys[i]` for every i.
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


def windows(text: str, max_tokens: int, truncate: Callable[[str], str]) -> list[str]:
    """Cut a text into parts that the model reads whole, between words where there are any.

    Args:
        text: not blank.
        max_tokens: what the model reads at most.
        truncate: the longest beginning of a text that the model reads whole.

    Raises:
        ValueError: not even one character fits.
    """
    parts: list[str] = []
    reach = CHARACTERS_A_TOKEN * max_tokens
    while text:
        # Never the whole rest: a long text would be counted anew, to its end, for every part.
        ahead = text[:reach]
        part = truncate(ahead)
        if part == ahead and len(ahead) < len(text):
            reach *= 2
            continue
        if not part:
            raise ValueError(f"No part of {text[:20]!r} has at most {max_tokens} tokens.")
        part = part if part == text else _to_the_word(part)
        if part.strip():
            parts.append(part)
        text = text[len(part) :]
    return parts


CHARACTERS_A_TOKEN: Final = 8
"""More than a token has on average in any language, so that few parts are looked for twice."""


def _to_the_word(part: str) -> str:
    """A beginning without its last word, which was probably cut, unless that is all there is."""
    end = max(part.rfind(space) for space in " \n\t") + 1
    return part[:end] if part[:end].strip() else part


class _OpenBatch:
    """The batch being filled, with its running sums."""

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
