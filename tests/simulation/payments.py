"""What the embedder is paid for, and what explains a second payment for one text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Payments:
    """Counts what the embedder was paid for, between two events that explain a second payment.

    Such an event is an edit of the row, a crash, a lost lease, a failed attempt or an empty cache.
    Each begins a new generation of the row. What was claimed before it is not counted after it.
    """

    paid: Counter[tuple[str, str, tuple[int, int]]] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    events_of_all: int = 0

    def excuse(self, keys: Iterable[str]) -> None:
        """Record an event of some rows."""
        self.events.update(set(keys))

    def generation(self, key: str) -> tuple[int, int]:
        """Return the present generation of a row."""
        return self.events_of_all, self.events[key]

    def pay(self, key: str, text: str, claimed: tuple[int, int]) -> None:
        """Record that a worker has embedded the text of a row, claimed in a generation."""
        if claimed == self.generation(key):
            self.paid[key, text, claimed] += 1

    def violations(self) -> list[str]:
        """Return the texts that were embedded again without a reason."""
        return [
            f"row {key} was embedded {count} times as {text!r}"
            for (key, text, _), count in self.paid.items()
            if count > 1
        ]
