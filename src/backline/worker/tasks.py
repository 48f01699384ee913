"""The end of tasks, for certain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

AGAIN_SECONDS: Final = 2.0


async def end_tasks(*tasks: asyncio.Task[Any]) -> list[BaseException]:
    """Cancel tasks until each has ended; returns the errors of those that failed.

    To cancel them once may not do. Before Python 3.12, what waits under a time limit, as the pool
    does for a connection, swallows a cancellation that comes as the wait succeeds; and where an
    error of the database comes in its place, whoever is patient tries again.
    """
    open_: set[asyncio.Task[Any]] = {task for task in tasks if not task.done()}
    while open_:
        for task in open_:
            task.cancel()
        _, open_ = await asyncio.wait(open_, timeout=AGAIN_SECONDS)
    errors = (None if task.cancelled() else task.exception() for task in tasks)
    return [error for error in errors if error is not None]


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do some work beside a block, until the end of the block; raises what the work failed with."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        for error in await end_tasks(task):
            raise error
