"""Retry database calls while the database is unavailable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeVar

import structlog

from backline import errors

T = TypeVar("T")

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
TRANSIENT_ERRORS: Final = (errors.ContentionError, errors.DatabaseUnavailableError)

log = structlog.get_logger("backline.worker")


async def retry_while_unavailable(
    call: Callable[[], Awaitable[T]],
    pauses: Iterable[float] | None = None,
    *,
    give_up_after: float | None = None,
    retried: tuple[type[errors.DatabaseError], ...] = TRANSIENT_ERRORS,
) -> T:
    """Repeat a database call until it succeeds, and return its result.

    Args:
        call: starts one attempt. The outcome of the attempt before may be unknown, so a repeated
            call must have no further effect.
        pauses: seconds between attempts. The attempt after the last pause is the last one.
            Default: pauses that double from 0.05 to 2 seconds, without end.
        give_up_after: seconds after which a failed attempt is the last one. None: no limit.
        retried: errors that lead to another attempt.

    Raises:
        DatabaseError: the last attempt failed, or one failed with an error that is not `retried`.
    """
    started = time.monotonic()
    for pause in backoff() if pauses is None else pauses:
        try:
            return await call()
        except retried as error:
            if give_up_after is not None and time.monotonic() - started > give_up_after:
                raise
            if pauses is None:
                log.warning("database not ready, retrying", error=str(error), pause=pause)
        await asyncio.sleep(pause)
    return await call()


def backoff() -> Iterator[float]:
    """Yield pauses in seconds that double up to `LONGEST_PAUSE`, without end."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)
