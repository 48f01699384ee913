"""End tasks reliably."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

AGAIN_SECONDS: Final = 2.0


async def end_tasks(*tasks: asyncio.Task[Any]) -> list[BaseException]:
    """Cancel tasks until each has ended, and return the errors of those that failed.

    One cancel() is not enough. Before Python 3.12, asyncio.wait_for loses a cancellation that
    arrives as the wait succeeds, and a retry loop ignores one that surfaces as a database error.
    """
    running: set[asyncio.Task[Any]] = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=AGAIN_SECONDS)
    errors = (None if task.cancelled() else task.exception() for task in tasks)
    return [error for error in errors if error is not None]


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine as a task until the end of the block. Raises its error, if it failed."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        for error in await end_tasks(task):
            raise error


async def first_failure(main: asyncio.Task[None], helpers: Sequence[asyncio.Task[None]]) -> None:
    """Wait for `main`, or raise the error of the first helper that fails before."""
    await asyncio.wait({main, *helpers}, return_when=asyncio.FIRST_COMPLETED)
    while not main.done():
        for helper in helpers:
            if helper.done():
                helper.result()
        await asyncio.wait(
            {main, *(h for h in helpers if not h.done())}, return_when=asyncio.FIRST_COMPLETED
        )
    main.result()


def has_failed(task: asyncio.Task[None]) -> bool:
    """Return whether a task ended with an error."""
    return task.done() and not task.cancelled() and task.exception() is not None
