"""Watch what makes the coverage of a collection untrue, while a worker runs."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

import structlog

from backline import errors
from backline.store import JobStore
from backline.types import Collection, Problem

CHECK_SECONDS: Final = 60.0
# A problem that stays is logged again after this time.
REPEAT_SECONDS: Final = 600.0

log = structlog.get_logger("backline.problems")


async def watch_problems(
    store: JobStore, collection: Collection, every: float = CHECK_SECONDS
) -> None:
    """Follow renames and log problems until cancelled, each once and then every ten minutes."""
    logged: dict[Problem, float] = {}
    while True:
        with suppress(errors.DatabaseError):  # the worker reports an outage
            await store.follow(collection)
            problems = await store.problems(collection)
            logged = {each: logged[each] for each in problems if each in logged}
            for each in problems:
                if time.monotonic() - logged.get(each, -REPEAT_SECONDS) >= REPEAT_SECONDS:
                    logged[each] = time.monotonic()
                    log.warning(
                        each.problem, collection=collection.name, kind=each.kind, remedy=each.remedy
                    )
        await asyncio.sleep(every)


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
