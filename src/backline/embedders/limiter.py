"""Limit the rate of calls to one provider, for all workers of a process.

A call starts once the provider's pause is over, the budget of requests and tokens a minute has
room, and the calls in flight are fewer than the window. The window follows AIMD, as in TCP
(Jacobson, "Congestion avoidance and control", 1988): it grows by one for each round of successes
and is halved on overload.
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

from backline import errors

WINDOW_S = 60.0
"""Length of the sliding window of the limits "a minute"."""

# Pauses when the provider names none: the first after a 429, the first after a missing response
# (usually a restart or a lost packet), and the longest.
_FIRST_DEFERRAL_S = 1.0
_FIRST_OUTAGE_S = 0.25
_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """A provider's limits from the x-ratelimit-* headers of a response; None for missing ones.

    Attributes:
        requests: requests a minute.
        requests_remaining: requests left.
        requests_reset_s: seconds until `requests_remaining` is back at `requests`.
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
    """The state of a limiter at one moment.

    Attributes:
        window: limit of calls in flight, up to `max_concurrency`.
        waiting: calls in the queue.
        blocked_for_s: seconds until the provider's pause is over.
        requests_last_minute: calls started within the last 60 s; `tokens_last_minute` likewise.
        requests_per_minute: the limit, or None if none is configured or reported.
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
    """Permission for one call.

    Attributes:
        tokens: declared tokens of the call.
        granted: time of the grant, by the limiter's clock.
        waited_s: seconds between the request and the grant.
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
class _ExternalUse:
    """The part of the budget that other clients used, by the provider's last response."""

    until: float = -math.inf
    requests: int = 0
    tokens: int = 0


class Limiter:
    """Grants calls to one provider, first come, first served, within one event loop.

        async with limited_call(limiter, tokens):
            vectors = await embedder.embed(texts)

    After its slot, a task reports the outcome of the call: `succeeded`, `defer` or `unavailable`.
    Outcomes of calls that started before the window was last halved do not halve it again.

    Args:
        max_concurrency: limit of calls in flight, and the initial window.
        requests_per_minute: a limit in addition to the provider's.
        tokens_per_minute: likewise. A single call above it runs alone.
        clock: a monotonic clock in seconds.
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
        self._external = _ExternalUse()
        self._waiters: deque[_Waiter] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._timer_due = math.inf
        self._epoch = 0
        self._overloads = 0  # since the last success
        self._epochs: WeakKeyDictionary[asyncio.Task[object], int] = WeakKeyDictionary()

    # --- slots ---

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[Slot]:
        """Wait for a slot for a call of `tokens`, and release it at the end of the block."""
        slot = await self.acquire(tokens)
        try:
            yield slot
        finally:
            self.release()

    async def acquire(self, tokens: int) -> Slot:
        """Wait for a slot for a call of `tokens`. The caller must `release` it."""
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
        """Release the slot after the call, whatever its outcome."""
        self._in_flight -= 1
        self._dispatch()

    # --- outcomes of calls ---

    def succeeded(self) -> None:
        """Report that the last call of this task succeeded."""
        if self._is_stale():
            return
        self._overloads = 0
        if self._waiters or self._in_flight >= int(self._window):
            self._window = min(float(self._max), self._window + 1 / self._window)
        self._dispatch()

    def defer(self, retry_after: float | None = None) -> None:
        """Report that the provider is overloaded, for `retry_after` seconds if it named a time."""
        if not self._is_stale():
            self._shrink()
            if not retry_after:
                self._block(self._pause(_FIRST_DEFERRAL_S))
        self._block(retry_after or 0.0)
        self._dispatch()

    def unavailable(self) -> None:
        """Report a missing response or a server error."""
        if not self._is_stale():
            self._shrink()
            self._block(self._pause(_FIRST_OUTAGE_S))
        self._dispatch()

    def observe(self, limits: Limits) -> None:
        """Apply the limits in a response's headers, at any time and in any order."""
        if limits.requests is not None:
            self._requests_per_minute = _least(self._own_limits[0], limits.requests)
        if limits.tokens is not None:
            self._tokens_per_minute = _least(self._own_limits[1], limits.tokens)
        now = self._clock()
        self._forget(now)
        requests = _used(limits.requests, limits.requests_remaining) - len(self._spent)
        tokens = _used(limits.tokens, limits.tokens_remaining) - self._spent_tokens
        reset = max(limits.requests_reset_s or 0.0, limits.tokens_reset_s or 0.0)
        self._external = _ExternalUse(now + min(reset, WINDOW_S), max(0, requests), max(0, tokens))
        self._dispatch()

    def snapshot(self) -> LimiterSnapshot:
        """Return the current state, for status displays."""
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
        """Return whether the task's last call started before the window was last halved."""
        task = asyncio.current_task()
        return task is not None and self._epochs.get(task, self._epoch) < self._epoch

    def _shrink(self) -> None:
        self._window = max(1.0, self._window / 2)
        self._epoch += 1
        self._overloads += 1

    def _pause(self, first: float) -> float:
        """Return a pause that doubles with each consecutive overload, shortened by jitter."""
        longest = min(_LONGEST_PAUSE_S, first * 2.0 ** min(self._overloads - 1, 16))
        return longest * (0.5 + 0.5 * self._jitter())

    def _block(self, seconds: float) -> None:
        self._blocked_until = max(self._blocked_until, self._clock() + seconds)

    # --- the queue ---

    def _dispatch(self) -> None:
        """Grant every slot that is due, and set the timer for the next one."""
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
        """Remove a cancelled waiter; if it was just granted a slot, return the slot's budget."""
        if waiter.granted.cancelled():
            self._dispatch()
            return
        if waiter.slot in self._spent:
            self._spent.remove(waiter.slot)
            self._spent_tokens -= waiter.slot.tokens
        self.release()

    def _due(self, tokens: int, now: float) -> float:
        """Return when a call of `tokens` may start; infinity if another call must end first."""
        if self._in_flight >= int(self._window):
            return math.inf
        return max(self._blocked_until, self._budget_due(tokens, now))

    def _budget_due(self, tokens: int, now: float) -> float:
        """Return when enough of the used budget expires for a call of `tokens`."""
        self._forget(now)
        requests = len(self._spent) + self._external.requests
        spent = self._spent_tokens + self._external.tokens
        if self._fits(requests, spent, tokens):
            return now
        expiries = [(slot.granted + WINDOW_S, 1, slot.tokens) for slot in self._spent]
        external = self._external
        expiries.append((external.until, external.requests, external.tokens))
        for expiry, count, size in sorted(expiries):
            requests, spent = requests - count, spent - size
            if self._fits(requests, spent, tokens):
                return expiry
        return now

    def _fits(self, requests: int, spent: int, tokens: int) -> bool:
        """Return whether a call of `tokens` fits both limits. A call above a limit runs alone."""
        rpm, tpm = self._requests_per_minute, self._tokens_per_minute
        return (rpm is None or requests < max(1, rpm)) and (
            tpm is None or spent == 0 or spent + tokens <= tpm
        )

    def _forget(self, now: float) -> None:
        while self._spent and self._spent[0].granted + WINDOW_S <= now:
            self._spent_tokens -= self._spent.popleft().tokens
        if self._external.until <= now:
            self._external = _ExternalUse()

    # --- the timer ---

    def _arm(self, due: float) -> None:
        """Run `_dispatch` at `due`; cancel the timer if that is infinity."""
        if due == self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, due
        if due < math.inf:
            self._timer = asyncio.get_running_loop().create_task(self._wake_at(due))

    async def _wake_at(self, due: float) -> None:
        while (wait := due - self._clock()) > 0:
            await self._sleep(wait)
        self._timer, self._timer_due = None, math.inf
        self._dispatch()


@asynccontextmanager
async def limited_call(
    limiter: Limiter, tokens: int, *, interactive: bool = False
) -> AsyncIterator[Slot]:
    """Hold a slot during one call to the provider, and report the outcome of the call.

    Every call of a backfill or a sync (worker/send.py) and of an upsert (server/upsert.py) passes
    here.

    Args:
        limiter: of the provider.
        tokens: of all texts of the call.
        interactive: whether a caller waits for the response. An outage then ends the caller's
            request at once, so it pauses no other call.
    """
    try:
        async with limiter.slot(tokens) as slot:
            yield slot
    except errors.RateLimitedError as error:
        limiter.defer(error.retry_after)
        raise
    except errors.InputRejectedError:
        limiter.succeeded()  # a response, so the request rate is not the problem
        raise
    except errors.ProviderRefusedError:
        raise
    except errors.EmbedderError:
        if not interactive:
            limiter.unavailable()
        raise
    limiter.succeeded()


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _used(limit: int | None, remaining: int | None) -> int:
    return 0 if limit is None or remaining is None else limit - remaining
