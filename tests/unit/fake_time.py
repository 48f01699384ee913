"""A clock that tests advance, and calls that wait for a limiter."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from backline.embedders.limiter import Limiter


@dataclass
class FakeTime:
    """A clock that advances only on request, and then wakes its sleepers in order."""

    now: float = 1000.0
    sleeps: list[float] = field(default_factory=list)
    _sleepers: list[tuple[float, int, asyncio.Future[None]]] = field(default_factory=list)
    _count: itertools.count[int] = field(default_factory=itertools.count)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._count), woken))
        await woken

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        target = self.now + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, woken = heapq.heappop(self._sleepers)
            self.now = max(self.now, due)
            if not woken.done():
                woken.set_result(None)
            await self.settle()
        self.now = target

    def limiter(self, **options: int | None) -> Limiter:
        """Return a limiter on this clock, without jitter in its pauses."""
        arguments = {"max_concurrency": 4, **options}
        return Limiter(
            max_concurrency=arguments["max_concurrency"] or 4,
            requests_per_minute=arguments.get("requests_per_minute"),
            tokens_per_minute=arguments.get("tokens_per_minute"),
            clock=self.clock,
            sleep=self.sleep,
            jitter=lambda: 1.0,
        )


async def start(limiter: Limiter, count: int, tokens: int = 1) -> list[asyncio.Task[object]]:
    """Start acquisitions in order, each in a separate task."""
    tasks = [asyncio.create_task(_acquire(limiter, tokens)) for _ in range(count)]
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def _acquire(limiter: Limiter, tokens: int) -> object:
    return await limiter.acquire(tokens)


def granted(tasks: Sequence[asyncio.Task[object]]) -> list[int]:
    return [i for i, task in enumerate(tasks) if task.done() and not task.cancelled()]


async def cancel(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
