"""The shared rate limiter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider says of its limits, in x-ratelimit-* headers; None where it says nothing.

    Attributes:
        requests: requests a minute.
        requests_remaining: how many of them are left.
        requests_reset_s: seconds until all of them are back.
        tokens: tokens a minute; `tokens_remaining` and `tokens_reset_s` likewise.
    """

    requests: int | None = None
    requests_remaining: int | None = None
    requests_reset_s: float | None = None
    tokens: int | None = None
    tokens_remaining: int | None = None
    tokens_reset_s: float | None = None
