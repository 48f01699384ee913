"""What a worker measures of itself: its counts, and how long it has made no progress."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

# A report lists at most this many keys of rows with long texts.
KEYS_KEPT: Final = 1000
# Weight of the previous rate in the exponential moving average.
RATE_SMOOTHING: Final = 0.7


@dataclass(slots=True)
class WorkerStats:
    """Counts for the rate, the row limit and the report. Coverage is read from the database.

    Attributes:
        processed: rows that were written, skipped or recorded as failed.
        held: rows that are claimed and not processed yet.
        rate: processed rows a second, as a moving average.
        long_keys: keys of rows with a text that is longer than the model reads, at most
            `KEYS_KEPT`.
    """

    processed: int = 0
    held: int = 0
    rate: float = 0.0
    long_keys: list[str] = field(default_factory=list)
    _measured: int = 0  # `processed` when the rate was last measured

    def measure_rate(self, seconds: float) -> None:
        """Update the rate from the rows processed in the last `seconds`."""
        recent = (self.processed - self._measured) / seconds
        self._measured = self.processed
        if self.rate == 0:
            self.rate = recent
        else:
            self.rate = RATE_SMOOTHING * self.rate + (1 - RATE_SMOOTHING) * recent

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
