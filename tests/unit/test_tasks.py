"""Tasks end even if a cancellation is lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from backline.worker import tasks
from backline.worker.tasks import end_tasks


async def forever(*, swallows: int = 0) -> None:
    for _ in range(swallows):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
    await asyncio.sleep(60)


async def failing(error: Exception) -> None:
    raise error


async def test_end_tasks_returns_errors_only() -> None:
    error = ValueError("wrong")
    tasks_ = [asyncio.create_task(work) for work in (failing(error), forever(), asyncio.sleep(0))]
    await asyncio.sleep(0.01)
    assert await end_tasks(*tasks_) == [error]
    assert all(task.done() for task in tasks_)
    assert await end_tasks(*tasks_) == [error]
    assert await end_tasks() == []


async def test_task_that_loses_a_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "AGAIN_SECONDS", 0.01)
    task = asyncio.create_task(forever(swallows=3))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(end_tasks(task), 10) == []
    assert task.cancelled()
