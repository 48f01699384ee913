"""A clock for leases, which expire in the database while this process is stopped."""

from __future__ import annotations

import time
from typing import Final

# On Linux, CLOCK_MONOTONIC stands still while the machine is suspended; CLOCK_BOOTTIME does not.
_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def elapsed() -> float:
    """Return seconds since some fixed time, which include those in suspend."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
