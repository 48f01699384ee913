"""Watch what makes the coverage of a collection untrue, while a worker runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from backline import errors
from backline.store import JobStore
from backline.types import Collection, Problem

CHECK_SECONDS: Final = 60.0
# A check that takes longer is repeated after as many intervals as it takes of these, at most ten.
# It then takes 0.05 % of the time.
QUICK_SECONDS: Final = 0.03
MOST_INTERVALS: Final = 10.0
# A problem that stays is logged again after this time.
REPEAT_SECONDS: Final = 600.0

log = structlog.get_logger("backline.problems")


async def watch_problems(
    store: JobStore, collection: Collection, every: float = CHECK_SECONDS
) -> None:
    """Follow renames and log problems until cancelled, each once and then every ten minutes.

    A check of many or long rows is repeated more seldom.
    """
    logged: dict[Problem, float] = {}
    check_at = float("-inf")
    while True:
        with suppress(errors.DatabaseError):  # the worker reports an outage
            await store.follow(collection)
            began = time.monotonic()
            if began >= check_at:
                problems = await store.problems(collection)
                intervals = (time.monotonic() - began) / QUICK_SECONDS
                check_at = began + every * min(MOST_INTERVALS, intervals)
                _log(collection, problems, logged)
        await asyncio.sleep(every)


def _log(collection: Collection, problems: Sequence[Problem], logged: dict[Problem, float]) -> None:
    """Log the problems not logged within `REPEAT_SECONDS`, and forget those that ended."""
    for ended in logged.keys() - set(problems):
        del logged[ended]
    for each in problems:
        if time.monotonic() - logged.get(each, -REPEAT_SECONDS) >= REPEAT_SECONDS:
            logged[each] = time.monotonic()
            log.warning(
                each.problem, collection=collection.name, kind=each.kind, remedy=each.remedy
            )


class ProblemCache:
    """The problems of collections, read from the database at most every `seconds`."""

    def __init__(self, store: JobStore, seconds: float = 10.0) -> None:
        self._store = store
        self._seconds = seconds
        self._read: dict[int, tuple[float, tuple[Problem, ...]]] = {}

    async def get(self, collection: Collection) -> tuple[Problem, ...]:
        """Return the problems of a collection, as of the last `seconds`."""
        read_at, problems = self._read.get(collection.id, (float("-inf"), ()))
        if time.monotonic() - read_at < self._seconds:
            return problems
        problems = await self._store.problems(collection)
        self._read[collection.id] = time.monotonic(), problems
        return problems
