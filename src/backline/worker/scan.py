"""Scan a whole table in key order and lease the rows that are due."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from backline import errors
from backline.store import JobStore
from backline.types import Collection, Job
from backline.worker.options import LARGEST_CLAIM

SMALLEST_PAGE: Final = 50


class TableScan:
    """A scan of a whole table, page by page, that leases due rows as the worker has room.

    Pages start after a key, not at an offset: the set of due rows shrinks during the scan.
    """

    def __init__(self, after: str | None = None) -> None:
        self.reached_end = False
        self._after = after
        self._largest = LARGEST_CLAIM
        self._deferred: deque[tuple[str | None, int]] = deque()  # pages: key before, rows

    @property
    def finished(self) -> bool:
        """Whether every page has been leased."""
        return self.reached_end and not self._deferred

    async def claim(
        self, store: JobStore, collection: Collection, worker: int, run: int | None, limit: int,
        open_batches: Iterable[int],
    ) -> list[Job]:  # fmt: skip
        """Lease the due rows of the next page. `open_batches` are leases that are not finished."""
        if self.reached_end:
            return await self._claim_deferred(store, collection, worker, run, open_batches)
        size = min(limit, self._largest)
        try:
            page = await store.claim_batch(collection, worker, run, self._after, size, open_batches)
        except (errors.ContentionError, errors.StatementTimeoutError) as error:
            if size > SMALLEST_PAGE:
                self._largest = max(SMALLEST_PAGE, size // 2)
            elif isinstance(error, errors.ContentionError):
                await self._defer(store, collection)
            else:
                raise
            return []
        self._advance(page.last_key, at_end=page.scanned < size)
        self._largest = min(LARGEST_CLAIM, 2 * self._largest)
        return page.jobs

    async def _defer(self, store: JobStore, collection: Collection) -> None:
        """Leave this page for the end of the scan: a row of it is locked."""
        rows = await store.scan_page(collection, self._after, SMALLEST_PAGE)
        self._deferred.append((self._after, SMALLEST_PAGE))
        self._advance(rows[-1].key if rows else None, at_end=len(rows) < SMALLEST_PAGE)

    def _advance(self, last_key: str | None, *, at_end: bool) -> None:
        self._after = last_key if last_key is not None else self._after
        self.reached_end = at_end

    async def _claim_deferred(
        self, store: JobStore, collection: Collection, worker: int, run: int | None,
        open_batches: Iterable[int],
    ) -> list[Job]:  # fmt: skip
        """Lease a deferred page. While a row of it is locked, halve it and lease the other half.

        The page stays deferred until the database has answered, so an outage does not lose it.
        """
        after, size = self._deferred[0]
        try:
            page = await store.claim_batch(collection, worker, run, after, size, open_batches)
        except errors.ContentionError:
            halves = await self._halves(store, collection, after, size)
            self._deferred.popleft()
            self._deferred.extend(halves)
            return []
        self._deferred.popleft()
        return page.jobs

    async def _halves(
        self, store: JobStore, collection: Collection, after: str | None, size: int
    ) -> list[tuple[str | None, int]]:
        half = max(1, size // 2)
        rows = await store.scan_page(collection, after, half) if size > half else []
        return [(after, half), *([(rows[-1].key, size - half)] if rows else [])]
