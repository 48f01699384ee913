"""Retry database calls while the database is unavailable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeVar

import structlog

from backline import errors

T = TypeVar("T")

# An attempt may take this long even if `give_up_after` is shorter.
SHORTEST_LIMIT: Final = 20.0
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
        give_up_after: seconds after which a failed attempt is the last one, and an attempt without
            a result fails. None: no limit.
        retried: errors that lead to another attempt. A table or a column that is gone leads to one
            more: its definition may have changed between the plan and the lock of a statement.

    Raises:
        DatabaseError: the last attempt failed, or one failed with an error that is not `retried`.
    """
    overtaken = False
    started = time.monotonic()
    for pause in backoff() if pauses is None else pauses:
        try:
            return await _within(_left(started, give_up_after), call)
        except retried as error:
            if give_up_after is not None and time.monotonic() - started > give_up_after:
                raise
            if pauses is None:
                log.warning("database not ready, retrying", error=str(error), pause=pause)
        except (errors.TableNotFoundError, errors.ColumnNotFoundError):
            if overtaken:
                raise
            overtaken = True
        await asyncio.sleep(pause)
    return await _within(_left(started, give_up_after), call)


def _left(started: float, give_up_after: float | None) -> float | None:
    """Return how many seconds an attempt may take."""
    if give_up_after is None:
        return None
    return max(SHORTEST_LIMIT, started + give_up_after - time.monotonic())


async def _within(seconds: float | None, call: Callable[[], Awaitable[T]]) -> T:
    """Make one attempt.

    Raises:
        DatabaseUnavailableError: it has no result after `seconds`.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await call()
    except TimeoutError:
        if not limit.expired():
            raise
        raise errors.DatabaseUnavailableError(
            f"The database has not answered a call for {seconds:.0f} s. Nothing is lost: check "
            "that it is running and reachable, then run the same command again."
        ) from None


def backoff() -> Iterator[float]:
    """Yield pauses in seconds that double up to `LONGEST_PAUSE`, without end."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)
