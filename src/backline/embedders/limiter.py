"""The pace of calls to one provider, shared by all workers of a process.

A call goes out once three things allow it: the provider has not asked to wait, the minute's budget
of requests and tokens has room, and fewer calls are in flight than the window. The window follows
AIMD, as TCP's does (Jacobson, "Congestion avoidance and control", 1988): it grows by one for each
round of successes and is halved at the first sign of overload.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

WINDOW_S = 60.0
"""What "a minute" means: no stretch of this length ever holds more than the limits."""

# Of a pause that the provider does not name: the first one after a 429, the first one after no
# answer (which a restart or a lost packet explains), and the longest.
_FIRST_DEFERRAL_S = 1.0
_FIRST_OUTAGE_S = 0.25
_LONGEST_PAUSE_S = 30.0


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


@dataclass(frozen=True, slots=True)
class LimiterSnapshot:
    """The limiter at one moment.

    Attributes:
        window: how many calls may be in flight now; `max_concurrency` at most.
        blocked_for_s: seconds that the provider is not to be called at all.
        requests_last_minute: calls begun within the last 60 s; `tokens_last_minute` likewise.
        requests_per_minute: the limit, None where none is set or learned.
    """

    in_flight: int
    window: int
    max_concurrency: int
    waiting: int
    blocked_for_s: float
    requests_last_minute: int
    tokens_last_minute: int
    requests_per_minute: int | None
    tokens_per_minute: int | None


@dataclass(eq=False, slots=True)
class Slot:
    """Leave to make one call.

    Attributes:
        tokens: that the call was said to take.
        granted: when it was granted, by the limiter's clock.
        waited_s: how long it was waited for.
    """

    tokens: int
    granted: float = 0.0
    waited_s: float = 0.0


@dataclass(eq=False, slots=True)
class _Waiter:
    slot: Slot
    since: float
    granted: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Others:
    """What others spend of the same budget, as the provider's last answer showed."""

    until: float = -math.inf
    requests: int = 0
    tokens: int = 0


class Limiter:
    """Paces the calls to one provider, first come, first served. For one event loop.

        async with limiter.slot(tokens):
            vectors = await embedder.embed(texts)
        limiter.succeeded()

    After its slot, a task reports how the call went: `succeeded`, `defer` or `unavailable`. Those
    of calls that began before the window was last halved do not halve it again.

    Args:
        max_concurrency: calls in flight at most. The window starts there.
        requests_per_minute: a limit to keep besides the one that the provider names.
        tokens_per_minute: likewise. A single call over it goes alone.
        clock: seconds that never go back.
        sleep: waits by that clock.
        jitter: a number from 0 to 1, to spread the pauses of several processes.
    """

    def __init__(
        self,
        *,
        max_concurrency: int = 8,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency is {max_concurrency}; it must be at least 1.")
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._max = max_concurrency
        self._own_limits = (requests_per_minute, tokens_per_minute)
        self._requests_per_minute, self._tokens_per_minute = self._own_limits
        self._window = float(max_concurrency)
        self._blocked_until = -math.inf
        self._in_flight = 0
        self._spent: deque[Slot] = deque()
        self._spent_tokens = 0
        self._others = _Others()
        self._waiters: deque[_Waiter] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._timer_due = math.inf
        self._epoch = 0
        self._strikes = 0
        self._epochs: WeakKeyDictionary[asyncio.Task[object], int] = WeakKeyDictionary()

    # --- taking turns ---

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[Slot]:
        """Wait for leave to make a call of `tokens`, and give it back at the end of the block."""
        slot = await self.acquire(tokens)
        try:
            yield slot
        finally:
            self.release()

    async def acquire(self, tokens: int) -> Slot:
        """Wait for leave to make a call of `tokens`. `release` must follow."""
        now = self._clock()
        waiter = _Waiter(Slot(tokens), now, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._dispatch()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        if (task := asyncio.current_task()) is not None:
            self._epochs[task] = self._epoch
        return waiter.slot

    def release(self) -> None:
        """Give leave back: the call is over, however it went."""
        self._in_flight -= 1
        self._dispatch()

    # --- how calls went ---

    def succeeded(self) -> None:
        """The last call of this task was answered."""
        if self._is_stale():
            return
        self._strikes = 0
        if self._waiters or self._in_flight >= int(self._window):
            self._window = min(float(self._max), self._window + 1 / self._window)
        self._dispatch()

    def defer(self, retry_after: float | None = None) -> None:
        """The provider asked to slow down, for `retry_after` seconds where it named a time."""
        if not self._is_stale():
            self._shrink()
            if not retry_after:
                self._block(self._pause(_FIRST_DEFERRAL_S))
        self._block(retry_after or 0.0)
        self._dispatch()

    def unavailable(self) -> None:
        """The provider did not answer, or answered with a server error."""
        if not self._is_stale():
            self._shrink()
            self._block(self._pause(_FIRST_OUTAGE_S))
        self._dispatch()

    def observe(self, limits: Limits) -> None:
        """Learn from the headers of an answer, at any time and in any order."""
        if limits.requests is not None:
            self._requests_per_minute = _least(self._own_limits[0], limits.requests)
        if limits.tokens is not None:
            self._tokens_per_minute = _least(self._own_limits[1], limits.tokens)
        now = self._clock()
        self._forget(now)
        requests = _used(limits.requests, limits.requests_remaining) - len(self._spent)
        tokens = _used(limits.tokens, limits.tokens_remaining) - self._spent_tokens
        reset = max(limits.requests_reset_s or 0.0, limits.tokens_reset_s or 0.0)
        self._others = _Others(now + min(reset, WINDOW_S), max(0, requests), max(0, tokens))
        self._dispatch()

    def snapshot(self) -> LimiterSnapshot:
        """The state of this moment, for status displays."""
        now = self._clock()
        self._forget(now)
        return LimiterSnapshot(
            in_flight=self._in_flight,
            window=int(self._window),
            max_concurrency=self._max,
            waiting=len(self._waiters),
            blocked_for_s=max(0.0, self._blocked_until - now),
            requests_last_minute=len(self._spent),
            tokens_last_minute=self._spent_tokens,
            requests_per_minute=self._requests_per_minute,
            tokens_per_minute=self._tokens_per_minute,
        )

    # --- the window and the pauses ---

    def _is_stale(self) -> bool:
        """Whether the calling task's last call began before the window was last halved."""
        task = asyncio.current_task()
        return task is not None and self._epochs.get(task, self._epoch) < self._epoch

    def _shrink(self) -> None:
        self._window = max(1.0, self._window / 2)
        self._epoch += 1
        self._strikes += 1

    def _pause(self, first: float) -> float:
        """Twice as long at each strike in a row, between half and the whole of that."""
        longest = min(_LONGEST_PAUSE_S, first * 2.0 ** min(self._strikes - 1, 16))
        return longest * (0.5 + 0.5 * self._jitter())

    def _block(self, seconds: float) -> None:
        self._blocked_until = max(self._blocked_until, self._clock() + seconds)

    # --- the queue ---

    def _dispatch(self) -> None:
        """Let go everybody who may go now; come back when the next one may."""
        while self._waiters:
            waiter, now = self._waiters[0], self._clock()
            if not waiter.granted.done():
                due = self._due(waiter.slot.tokens, now)
                if due > now:
                    self._arm(due)
                    return
                self._grant(waiter, now)
            self._waiters.popleft()
        self._arm(math.inf)

    def _grant(self, waiter: _Waiter, now: float) -> None:
        waiter.slot.granted = now
        waiter.slot.waited_s = now - waiter.since
        self._in_flight += 1
        self._spent.append(waiter.slot)
        self._spent_tokens += waiter.slot.tokens
        waiter.granted.set_result(None)

    def _abandon(self, waiter: _Waiter) -> None:
        """A cancelled waiter leaves the queue; if its turn had just come, it gives that back."""
        if waiter.granted.cancelled():
            self._dispatch()
            return
        if waiter.slot in self._spent:
            self._spent.remove(waiter.slot)
            self._spent_tokens -= waiter.slot.tokens
        self.release()

    def _due(self, tokens: int, now: float) -> float:
        """When a call of `tokens` may go; infinite while that takes another call to end."""
        if self._in_flight >= int(self._window):
            return math.inf
        return max(self._blocked_until, self._budget_due(tokens, now))

    def _budget_due(self, tokens: int, now: float) -> float:
        """When enough of what was spent is a minute old for a call of `tokens` to fit."""
        self._forget(now)
        requests = len(self._spent) + self._others.requests
        spent = self._spent_tokens + self._others.tokens
        if self._fits(requests, spent, tokens):
            return now
        expiries = [(slot.granted + WINDOW_S, 1, slot.tokens) for slot in self._spent]
        expiries.append((self._others.until, self._others.requests, self._others.tokens))
        for expiry, count, size in sorted(expiries):
            requests, spent = requests - count, spent - size
            if self._fits(requests, spent, tokens):
                return expiry
        return now

    def _fits(self, requests: int, spent: int, tokens: int) -> bool:
        """Whether one more call of `tokens` keeps both limits. A call over the limit goes alone."""
        rpm, tpm = self._requests_per_minute, self._tokens_per_minute
        return (rpm is None or requests < max(1, rpm)) and (
            tpm is None or spent == 0 or spent + tokens <= tpm
        )

    def _forget(self, now: float) -> None:
        while self._spent and self._spent[0].granted + WINDOW_S <= now:
            self._spent_tokens -= self._spent.popleft().tokens
        if self._others.until <= now:
            self._others = _Others()

    # --- the timer ---

    def _arm(self, due: float) -> None:
        """Have `_dispatch` run at `due`; never, if that is infinite."""
        if due == self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, due
        if due < math.inf:
            self._timer = asyncio.get_running_loop().create_task(self._ring(due))

    async def _ring(self, due: float) -> None:
        while (wait := due - self._clock()) > 0:
            await self._sleep(wait)
        self._timer, self._timer_due = None, math.inf
        self._dispatch()


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _used(limit: int | None, remaining: int | None) -> int:
    return 0 if limit is None or remaining is None else limit - remaining
