"""The configurable behaviour of the stand-in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Spoil: TypeAlias = Literal[
    "",
    "reversed",
    "same index",
    "missing",
    "extra",
    "not finite",
    "short vector",
    "zero",
    "not json",
    "too deep",
    "no data",
    "null vector",
]
"""Defects of a response with status 200. "reversed" is legal: clients sort by index."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The behaviour of every response, until it is changed.

    Attributes:
        delay_s: delay of a response.
        held: responses are computed only after their release.
        down_until: connections are cut until this time (seconds since the epoch).
        reject_marker: requests with this in any text get status 400 and `reject_message`.
        requests_per_minute: enforced limit within `limit_window_s`; None is no limit.
        tokens_per_minute: likewise.
        limit_window_s: length of the window of both limits, short enough for a test.
        announce_limits: send the limits in x-ratelimit-* headers.
        ignore_base64: return lists of floats regardless of the requested encoding.
        refuse_dimensions: return 400 for requests with dimensions, as vLLM does for most models.
        ignore_dimensions: return the model's full dimensions regardless of the request.
        spoil: make responses malformed.
        scale: length of the vectors.
        trickle_s: time over which the body of a response is sent, in twenty parts.
    """

    delay_s: float = 0.0
    held: bool = False
    down_until: float = 0.0
    reject_marker: str | None = None
    reject_message: str = "The input contains something that this model does not accept."
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    limit_window_s: float = 60.0
    announce_limits: bool = True
    max_inputs: int = 2048
    max_tokens_per_input: int = 8192
    max_tokens_per_request: int = 300_000
    ignore_base64: bool = False
    refuse_dimensions: bool = False
    ignore_dimensions: bool = False
    spoil: Spoil = ""
    scale: float = 1.0
    trickle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One failing response: an HTTP status, or None for a cut connection."""

    status: int | None
    message: str = ""
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    mid_answer: bool = False


class RateWindow:
    """Counts requests and tokens within a sliding window, for x-ratelimit-* headers."""

    def __init__(self) -> None:
        self._spent: deque[tuple[float, int]] = deque()

    def admit(self, now: float, tokens: int, behaviour: Behaviour) -> float:
        """Admit a request and return 0, or return the seconds until it fits."""
        self._forget(now, behaviour.limit_window_s)
        waits = [self._wait(now, tokens, behaviour, taken) for taken in range(len(self._spent) + 1)]
        wait = next(wait for wait in waits if wait is not None)
        if wait == 0:
            self._spent.append((now, tokens))
        return wait

    def headers(self, now: float, behaviour: Behaviour) -> dict[str, str]:
        if not behaviour.announce_limits:
            return {}
        self._forget(now, behaviour.limit_window_s)
        reset = self._spent[-1][0] + behaviour.limit_window_s - now if self._spent else 0.0
        used = {"requests": len(self._spent), "tokens": sum(t for _, t in self._spent)}
        limits = {
            "requests": behaviour.requests_per_minute,
            "tokens": behaviour.tokens_per_minute,
        }
        headers: dict[str, str] = {}
        for kind, limit in limits.items():
            if limit is not None:
                headers[f"x-ratelimit-limit-{kind}"] = str(limit)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, limit - used[kind]))
                headers[f"x-ratelimit-reset-{kind}"] = go_duration(reset)
        return headers

    def _wait(self, now: float, tokens: int, behaviour: Behaviour, expired: int) -> float | None:
        """Return the wait until the oldest `expired` requests expire, or None if more must."""
        left = list(self._spent)[expired:]
        requests, limit = behaviour.requests_per_minute, behaviour.tokens_per_minute
        fits = requests is None or len(left) < requests
        fits = fits and (limit is None or sum(t for _, t in left) + tokens <= limit or not left)
        if not fits:
            return None
        return self._spent[expired - 1][0] + behaviour.limit_window_s - now if expired else 0.0

    def _forget(self, now: float, window: float) -> None:
        while self._spent and self._spent[0][0] + window <= now:
            self._spent.popleft()


def go_duration(seconds: float) -> str:
    """Format a duration like OpenAI: 120ms, 6m0s, 1.5s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
