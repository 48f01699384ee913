"""Live sync inside the server, with one worker for each collection that it can embed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog

from backline import errors, wiring
from backline.collections import check
from backline.config import Settings
from backline.postgres.store import Store
from backline.server.embedder_pool import EmbedderPool
from backline.sync import ChangePoller, Sync
from backline.types import Collection
from backline.worker.tasks import beside, end_tasks

POLL_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 30.0
GRACE_SECONDS: Final = 15.0
MAX_REPORTED: Final = 1000

log = structlog.get_logger("backline.server")


class _Target(NamedTuple):
    """A collection with its model. A new model of a collection is a new target."""

    collection: int
    model: int


@dataclass(frozen=True, slots=True)
class _Running:
    sync: Sync
    task: asyncio.Task[None]


class LiveSync:
    """Starts a `Sync` for every collection, and restarts those that end."""

    def __init__(self, store: Store, settings: Settings, pool: EmbedderPool) -> None:
        self._store = store
        self._settings = settings
        self._pool = pool
        self._poller = ChangePoller(store)
        self._running: dict[_Target, _Running] = {}
        self._not_before: dict[_Target, float] = {}
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Poll for new collections and for syncs that ended, until cancelled."""
        async with beside(self._poller.run()):
            while True:
                try:
                    await self._update()
                except errors.BacklineError as error:
                    self._report("cannot list collections", error)
                except Exception:
                    log.exception("bug")
                await asyncio.sleep(POLL_SECONDS)

    async def _update(self) -> None:
        collections = await self._store.collections()
        targets = {
            _Target(c.id, c.model_id): c for c in collections if c.table_exists and not c.frozen
        }
        for target in self._running.keys() - targets.keys():
            self._running[target].sync.stop()
        now = asyncio.get_running_loop().time()
        for target, collection in targets.items():
            if target not in self._running and self._not_before.get(target, 0) <= now:
                await self._start(target, collection)

    async def _start(self, target: _Target, collection: Collection) -> None:
        self._not_before[target] = asyncio.get_running_loop().time() + RETRY_SECONDS
        try:
            check(collection, collection.model)
            pooled = await self._pool.get(collection.model)
        except errors.BacklineError as error:
            self._report(f"live sync of {collection.name} did not start", error)
            return
        options = wiring.worker_options(self._settings, collection.model)
        sync = Sync(self._store, collection, pooled.embedder, pooled.limiter, options, self._poller)
        task = asyncio.create_task(self._supervise(target, collection.name, sync.run()))
        self._running[target] = _Running(sync, task)
        log.info("live sync started", collection=collection.name)

    async def _supervise(self, target: _Target, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except errors.BacklineError as error:
            self._report(f"live sync of {name} stopped", error)
        except Exception:
            log.exception("bug", collection=name)
        finally:
            self._running.pop(target, None)

    def _report(self, event: str, error: Exception) -> None:
        """Log a warning once for each reason, because a failing target is retried for ever."""
        line = f"{event}: {error}"
        if line not in self._reported and len(self._reported) < MAX_REPORTED:
            self._reported.add(line)
            log.warning(event, error=str(error))

    async def aclose(self) -> None:
        """Let the workers finish or release their rows; the leases of the rest expire."""
        running = list(self._running.values())
        for each in running:
            each.sync.stop()
        if running:
            await asyncio.wait([each.task for each in running], timeout=GRACE_SECONDS)
        await end_tasks(*(each.task for each in running))
