"""Rate limits and waits in the headers of a provider's response."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from backline.embedders.limiter import Limits
from backline.embedders.registry import LimitHeaders


def parse_limits(headers: Mapping[str, str], names: LimitHeaders) -> Limits | None:
    """Parse the rate-limit headers of a response; None if it has none.

    Args:
        headers: of the response, with names in any case.
        names: what the provider calls them.
    """

    def value(name: str | None) -> str | None:
        return headers.get(name) if name else None

    limits = Limits(
        requests=_integer(value(names.requests)),
        requests_remaining=_integer(value(names.requests_remaining)),
        requests_reset_s=parse_duration(value(names.requests_reset)),
        tokens=_integer(value(names.tokens)),
        tokens_remaining=_integer(value(names.tokens_remaining)),
        tokens_reset_s=parse_duration(value(names.tokens_reset)),
    )
    return None if limits == Limits() else limits


def parse_retry_after(headers: Mapping[str, str], names: LimitHeaders) -> float | None:
    """Return the requested wait in seconds, from the most precise header in the response."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = headers.get("retry-after")
    seconds = parse_duration(header) if header else None
    if seconds is None and header:
        seconds = _until(header)
    return seconds if seconds is not None else _until_reset(parse_limits(headers, names))


def _until_reset(limits: Limits | None) -> float | None:
    """Return the seconds until an exhausted limit resets, without a Retry-After header."""
    if limits is None:
        return None
    pairs = (
        (limits.requests_remaining, limits.requests_reset_s),
        (limits.tokens_remaining, limits.tokens_reset_s),
    )
    return max((reset for left, reset in pairs if left == 0 and reset is not None), default=None)


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s|us|µs|ns))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")


def parse_duration(value: str | None) -> float | None:
    """Parse seconds, "12" or "1.5", or a Go duration: "120ms", "6m0s", "1h2m3.5s"."""
    if value is None:
        return None
    value = value.strip()
    if _DURATION.fullmatch(value):
        return sum(float(n) * _UNITS[unit] for n, unit in _DURATION_PART.findall(value))
    return _number(value)


def _until(date: str) -> float | None:
    """Return the seconds until an HTTP date, or 0 if it is past."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    """Parse a non-negative finite number; None for anything else."""
    try:
        number = float(value) if value is not None else -1.0
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _integer(value: str | None) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
