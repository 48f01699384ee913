"""Keep a worker registered, and release the rows of dead workers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Final

from backline import errors
from backline.store import JobStore, Lease
from backline.types import Collection
from backline.worker.clock import elapsed
from backline.worker.options import WorkerOptions
from backline.worker.retry import retry_while_unavailable
from backline.worker.stats import WorkerStats

# Time to unregister. After it, the lease expires instead.
UNREGISTER_SECONDS: Final = 3.0
# Seconds between two rounds of maintenance; fewer if the lease is short.
MAINTENANCE_TICKS: Final = 10
# The part of a lease that may pass after a heartbeat before the lease counts as doubtful. Six
# heartbeats are sent in a lease.
TRUSTED: Final = 0.5


class WorkerLease:
    """Registers a worker and renews its lease.

    A heartbeat replaces a lost lease, and with it the id of the worker. Read `worker` anew for
    every attempt of a call.
    """

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        run: int | None,
        options: WorkerOptions,
        stats: WorkerStats,
        *,
        trims_cache: bool,
    ) -> None:
        self.current = Lease(0, None)
        self.run_state: str | None = None
        self._store = store
        self._collection = collection
        self._run = run
        self._options = options
        self._stats = stats
        self._trims_cache = trims_cache
        self._renewed_at = -math.inf  # when the last successful heartbeat was sent
        self._reported_rate = 0.0
        self._renewing = asyncio.Lock()

    @property
    def worker(self) -> int:
        """The id under which the worker is registered at present."""
        return self.current.worker

    async def register(self) -> None:
        """Register the worker."""
        started = elapsed()
        self.current = await self._new_lease()
        self._renewed_at = started

    async def ensure(self) -> int:
        """Return the worker's id, after a heartbeat if the lease may be lost.

        Waits while the database is unavailable.
        """
        if self._doubtful:
            await retry_while_unavailable(
                self._renew_if_doubtful, give_up_after=self._options.give_up_after
            )
        return self.worker

    @asynccontextmanager
    async def unchanged(self) -> AsyncIterator[int | None]:
        """Yield the worker's id, which no renewal replaces during the block.

        None if the lease may be lost: a new id may already have the rows, its response still under
        way.
        """
        async with self._renewing:
            yield None if self._doubtful else self.worker

    async def keep(self, on_cancel: Callable[[], None]) -> None:
        """Renew the lease until cancelled. Calls `on_cancel` if a user has cancelled the run."""
        pause = min(self._options.lease / 6, 1.0)
        for tick in count():
            await asyncio.sleep(pause)
            self._stats.measure_rate()
            if self._heartbeat_due:
                await retry_while_unavailable(
                    self._renew, give_up_after=self._options.give_up_after
                )
            if self.run_state == "cancelling":
                on_cancel()
            if tick % MAINTENANCE_TICKS == 0:
                await self._maintain()

    async def release_dead_workers(self) -> None:
        """Release the rows of workers with an expired lease. This worker counts as alive."""
        await retry_while_unavailable(
            self._release_dead_workers, give_up_after=self._options.give_up_after
        )

    async def unregister(self) -> None:
        """Unregister, which releases every row. During an outage the lease expires instead."""
        with suppress(errors.DatabaseError, TimeoutError):
            async with asyncio.timeout(UNREGISTER_SECONDS):
                await self._store.unregister(self.current)
                await self._trim_cache()

    async def _new_lease(self, replaces: int | None = None) -> Lease:
        return await self._store.register(
            self._collection, self._run, self._options.lease, replaces
        )

    @property
    def _heartbeat_due(self) -> bool:
        """Whether a heartbeat has something to report or to read, or the lease needs it.

        Each is a transaction, so a worker of a sync without rows sends six in a lease.
        """
        if self._run is not None or self._stats.held or self._stats.rate != self._reported_rate:
            return True
        return self._doubtful or elapsed() - self._renewed_at >= self._options.lease / 6

    @property
    def _doubtful(self) -> bool:
        """Whether the lease may be lost: its heartbeat is old, or its session has ended."""
        trusted = TRUSTED * self._options.lease
        return elapsed() - self._renewed_at > trusted or not self.current.intact

    async def _renew_if_doubtful(self) -> None:
        async with self._renewing:
            if self._doubtful:  # another task may have renewed it meanwhile
                await self._send_heartbeat()

    async def _renew(self) -> None:
        async with self._renewing:
            await self._send_heartbeat()

    async def _send_heartbeat(self) -> None:
        started, rate = elapsed(), self._stats.rate
        try:
            alive, self.run_state = await self._store.heartbeat(
                self.current, self._run, self._options.lease, rate
            )
        except errors.DatabaseUnavailableError:
            alive = False
        if not alive:
            # The server was restarted, or this process was suspended past its lease. Claimed rows
            # move to a new lease. Every write compares the content hash, so late writes are safe.
            lost, self._renewed_at = self.current, -math.inf
            self.current = await self._new_lease(replaces=lost.worker)
            await self._store.close_session(lost)
        self._renewed_at, self._reported_rate = started, rate

    async def _maintain(self) -> None:
        await self.release_dead_workers()
        for call in (partial(self._store.compact, self._collection), self._trim_cache):
            await retry_while_unavailable(call, give_up_after=self._options.give_up_after)

    async def _release_dead_workers(self) -> None:
        await self._store.release_dead_workers(self._collection, self.worker)

    async def _trim_cache(self) -> None:
        if self._trims_cache and self._store.capabilities.cache:
            await self._store.trim_cache(self._options.cache_bytes)
