"""Options of a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from backline.worker import batching

LARGEST_CLAIM: Final = 2000


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works. Times are seconds.

    `ahead` is how many rows to hold ready at least. Many, where the embedder is on this machine:
    batches of texts of one length come from a long list of them. `cache_bytes` is what the cache of
    vectors that were paid for may take in the database; 0 keeps none.
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
    budget: batching.Budget = field(default_factory=batching.Budget)
