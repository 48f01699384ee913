"""The scan of a table, where pages are locked and the database is down."""

from __future__ import annotations

from typing import Any, cast

import pytest

from backline import errors
from backline.store import JobStore, LeasedBatch, ScannedRow
from backline.types import Collection
from backline.worker.scan import SMALLEST_PAGE, TableScan

COLLECTION = cast(Collection, None)
ROWS = [f"{n:04}" for n in range(SMALLEST_PAGE)]


class Table:
    """A table of `ROWS`. `failures` are the errors of the next calls, in order."""

    def __init__(self) -> None:
        self.locked: set[str] = set()
        self.claimed: list[str] = []
        self.failures: list[Exception | None] = []

    def _page(self, after: str | None, limit: int) -> list[str]:
        if self.failures and (error := self.failures.pop(0)) is not None:
            raise error
        return [key for key in ROWS if key > (after or "")][:limit]

    async def claim_batch(
        self, _collection: Any, _worker: int, _run: Any, after: str | None, limit: int, _open: Any
    ) -> LeasedBatch:
        page = self._page(after, limit)
        if self.locked & set(page):
            raise errors.ContentionError("a row is locked")
        self.claimed += page
        return LeasedBatch(len(page), page[-1] if page else None, [])

    async def scan_page(
        self, _collection: Any, after: str | None, limit: int, *_: Any
    ) -> list[ScannedRow]:
        return [
            ScannedRow(key, due=True, content="", content_hash=b"", cached=False)
            for key in self._page(after, limit)
        ]


async def claim(scan: TableScan, table: Table) -> None:
    """Claim once, and ignore an outage, as a worker that tries again does."""
    try:
        await scan.claim(cast(JobStore, table), COLLECTION, 1, None, SMALLEST_PAGE, ())
    except errors.DatabaseUnavailableError:
        return


@pytest.mark.parametrize("before_outage", range(8))
async def test_an_outage_loses_no_locked_page(before_outage: int) -> None:
    table, scan = Table(), TableScan()
    table.locked = {ROWS[20]}
    table.failures = [*[None] * before_outage, errors.DatabaseUnavailableError("down")]
    for _ in range(10):
        await claim(scan, table)
    table.locked.clear()
    while not scan.finished:
        await claim(scan, table)
    assert sorted(set(table.claimed)) == ROWS
