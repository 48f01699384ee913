"""Parts of a worker that need no database."""

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
from backline.worker.batch_handler import EmbedBatches
from backline.worker.options import WorkerOptions
from backline.worker.worker import Worker


def worker() -> Worker:
    embedder = HashEmbedder(8)
    collection = Collection(
        1, "notes", "public", "notes", ("id",), "{body}", "embedding", 1, embedder.model, 5, True,
        "vector", 8,
    )  # fmt: skip
    store = Store(Connector("postgresql://nobody@127.0.0.1:1/none"))
    return Worker(store, collection, EmbedBatches(embedder), Limiter(), WorkerOptions())


@pytest.mark.parametrize("ticks", range(5))
async def test_cancellation_that_arrives_with_a_nudge_is_not_lost(ticks: int) -> None:
    """A lost cancellation kept the claim loop of a refused worker alive, one time in four."""
    idle = worker()
    task = asyncio.create_task(idle._claim_loop.wait(60))
    await asyncio.sleep(0.01)
    idle.nudge()
    for _ in range(ticks):
        await asyncio.sleep(0)
    if task.cancel():  # False if it has ended already
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_retried_claim_uses_the_present_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows claimed under a lost lease would be claimed by another worker as well."""
    claiming, leases = worker(), []

    async def claim(
        _collection: Collection, lease: int, _limit: int, *, edits_only: bool
    ) -> list[Job]:
        leases.append(lease)
        if len(leases) == 1:
            claiming._lease.current = Lease(2, None)  # as a heartbeat does
            raise errors.DatabaseUnavailableError("restarting")
        return []

    claiming._lease.current = Lease(1, None)
    monkeypatch.setattr(claiming._store, "claim", claim)
    assert await claiming._claims.next_jobs(10) == []
    assert leases == [1, 2]
