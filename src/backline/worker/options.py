"""Options of a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from backline.worker import batching

LARGEST_CLAIM: Final = 2000


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works. Times are seconds.

    Attributes:
        batch_size: texts in one call of the embedder, at most.
        concurrency: calls of the embedder at the same time.
        lease: time without a heartbeat after which other workers take the rows.
        give_up_after: length of an outage of the provider or the database that ends the work with
            an error. None: never.
        grace: time that batches in flight get to finish after a stop.
        ahead: the smallest number of rows to claim ahead of the embed loops. A local model needs
            many, because batches of texts of similar length are cut from a long list.
        poll: interval between two claims from an empty queue.
        max_rows: rows to process, at most. None: no limit.
        cache_bytes: size to which the database's cache of paid vectors is trimmed. 0: no cache.
        sweep_every: seconds between two sweeps of a source that is polled.
        budget: tokens and bytes in one call of the embedder, at most.
    """

    batch_size: int = 50
    concurrency: int = 2
    lease: float = 60
    give_up_after: float | None = 600
    grace: float = 5
    ahead: int = 0
    poll: float = 1.0
    max_rows: int | None = None
    cache_bytes: int = 1 << 30
    sweep_every: float = 900
    budget: batching.Budget = field(default_factory=batching.Budget)
