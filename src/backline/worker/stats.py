"""What a worker measures of itself: its counts, and how long it has made no progress."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

# A report lists at most this many keys of rows with long texts.
KEYS_KEPT: Final = 1000
# The rate is the mean of this many seconds, and of at least so many batches: under load, one batch
# can take longer.
RATE_SECONDS: Final = 30.0
RATE_BATCHES: Final = 4
# Without claimed rows for this long, the worker has nothing to do and no rate.
IDLE_SECONDS: Final = 10.0


@dataclass(slots=True)
class WorkerStats:
    """Counts for the rate, the row limit and the report. Coverage is read from the database.

    Attributes:
        processed: rows that were written, skipped or recorded as failed.
        held: rows that are claimed and not processed yet.
        rate: processed rows a second, over the latest batches; 0 before the first, or if idle.
        long_keys: keys of rows with a text that is longer than the model reads, at most
            `KEYS_KEPT`.
    """

    processed: int = 0
    held: int = 0
    rate: float = 0.0
    long_keys: list[str] = field(default_factory=list)
    # Time and `processed` of each batch that the rate counts, and of the moment before the first.
    _batches: deque[tuple[float, int]] = field(
        default_factory=lambda: deque([(time.monotonic(), 0)])
    )

    def measure_rate(self) -> None:
        """Update the rate from the rows processed since the oldest batch that counts."""
        now = time.monotonic()
        since, last = self._batches[-1]
        if self.processed > last:
            self._batches.append((now, self.processed))
        elif self.held == 0 and (len(self._batches) == 1 or now - since > IDLE_SECONDS):
            self._batches = deque([(now, self.processed)])
        while len(self._batches) > RATE_BATCHES + 1 and now - self._batches[1][0] > RATE_SECONDS:
            self._batches.popleft()
        begun, before = self._batches[0]
        self.rate = (self.processed - before) / (now - begun) if now > begun else 0.0

    def add_long(self, keys: list[str]) -> None:
        """Keep the keys of rows with a long text, up to `KEYS_KEPT`."""
        self.long_keys.extend(keys)
        del self.long_keys[KEYS_KEPT:]


class Outage:
    """Measures how long something has failed without a success in between."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._since: float | None = None

    def end(self) -> None:
        """Record a success."""
        self._since = None

    def overdue(self, began: float | None = None) -> float | None:
        """Record a failure, and return the length of the outage in seconds if it exceeds the limit.

        A limit of None is never exceeded. `began` is when the attempt that failed began: a first
        attempt without a response may have lasted long.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now if began is None else began
        seconds = now - self._since
        return seconds if self._limit is not None and seconds > self._limit else None
