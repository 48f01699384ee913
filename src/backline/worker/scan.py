"""Scan a whole table by key and lease what is due."""

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
    """A walk over a whole table, page by page, leasing what is due as the worker has room.

    By key and never by offset: the set of rows to embed shrinks while it is walked.
    """

    def __init__(self, after: str | None = None) -> None:
        self.explored = False
        self._after = after
        self._largest = LARGEST_CLAIM
        self._held: deque[tuple[str | None, int]] = deque()

    @property
    def finished(self) -> bool:
        return self.explored and not self._held

    async def claim(
        self, store: JobStore, collection: Collection, worker: int, run: int | None, limit: int,
        known: Iterable[int],
    ) -> list[Job]:  # fmt: skip
        """Lease what is due in the next page; `known` are the pages that are not finished."""
        if self.explored:
            return await self._claim_held(store, collection, worker, run, known)
        size = min(limit, self._largest)
        try:
            page = await store.claim_batch(collection, worker, run, self._after, size, known)
        except (errors.ContentionError, errors.StatementTimeoutError) as error:
            if size > SMALLEST_PAGE:
                self._largest = max(SMALLEST_PAGE, size // 2)
            elif isinstance(error, errors.ContentionError):
                await self._pass_by(store, collection)
            else:
                raise
            return []
        self._advance(page.last_key, at_end=page.scanned < size)
        self._largest = min(LARGEST_CLAIM, 2 * self._largest)
        return page.jobs

    async def _pass_by(self, store: JobStore, collection: Collection) -> None:
        """Somebody's open transaction holds a row of this page: come back to it at the end."""
        self._held.append((self._after, SMALLEST_PAGE))
        rows = await store.scan_page(collection, self._after, SMALLEST_PAGE)
        self._advance(rows[-1].key if rows else None, at_end=len(rows) < SMALLEST_PAGE)

    def _advance(self, last_key: str | None, *, at_end: bool) -> None:
        self._after = last_key if last_key is not None else self._after
        self.explored = at_end

    async def _claim_held(
        self, store: JobStore, collection: Collection, worker: int, run: int | None,
        known: Iterable[int],
    ) -> list[Job]:  # fmt: skip
        """Try a page that was passed by again, in halves: the rows beside the held one can go."""
        after, size = self._held.popleft()
        try:
            return (await store.claim_batch(collection, worker, run, after, size, known)).jobs
        except errors.ContentionError:
            half = max(1, size // 2)
            self._held.append((after, half))
        if size > half and (rows := await store.scan_page(collection, after, half)):
            self._held.append((rows[-1].key, size - half))
        return []
