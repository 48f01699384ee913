"""What a worker does without a database."""

from __future__ import annotations

import asyncio

import pytest

from backline import errors
from backline.embedders.hash import HashEmbedder
from backline.embedders.limiter import Limiter
from backline.postgres.connector import Connector
from backline.postgres.store import Store
from backline.store import Lease
from backline.types import Collection, Job
from backline.worker.handler import EmbedBatches
from backline.worker.options import WorkerOptions
from backline.worker.worker import Worker


def worker() -> Worker:
    embedder = HashEmbedder(8)
    collection = Collection(
        1, "notes", "public", "notes", "id", "{body}", "embedding", 1, embedder.model, 5, True,
        "vector", 8,
    )  # fmt: skip
    store = Store(Connector("postgresql://nobody@127.0.0.1:1/none"))
    return Worker(store, collection, EmbedBatches(embedder), Limiter(), WorkerOptions())


@pytest.mark.parametrize("ticks", range(5))
async def test_a_cancellation_that_comes_with_a_nudge_is_heeded(ticks: int) -> None:
    """Else the claims of a worker that was refused went on for ever, one time in four."""
    waiting = worker()
    task = asyncio.create_task(waiting._claim_loop.wait(60))
    await asyncio.sleep(0.01)
    waiting.nudge()
    for _ in range(ticks):
        await asyncio.sleep(0)
    if task.cancel():  # False where it had ended already
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_claim_that_is_tried_again_is_made_under_the_lease_of_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A claim under the lease that was lost is nobody's, and another worker does it too."""
    asking, tried = worker(), []

    async def claim(_collection: Collection, lease: int, _limit: int) -> list[Job]:
        tried.append(lease)
        if len(tried) == 1:
            asking._lease.current = Lease(2, None)  # as a heartbeat does meanwhile
            raise errors.DatabaseUnavailableError("restarting")
        return []

    asking._lease.current = Lease(1, None)
    monkeypatch.setattr(asking._store, "claim", claim)
    assert await asking._claims.next_jobs(10) == []
    assert tried == [1, 2]
