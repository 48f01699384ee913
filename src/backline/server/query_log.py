"""Buffers the queries that the server is asked, and keeps them in the background."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Final

import structlog

from backline import errors
from backline.postgres.store import Store
from backline.search.kept import Asked, keep
from backline.search.query import Mode, clean_text
from backline.types import Collection

FLUSH_SECONDS: Final = 2.0
LAST_FLUSH_SECONDS: Final = 2.0
MOST_BUFFERED: Final = 10_000

log = structlog.get_logger("backline.server")


class QueryLog:
    """The queries asked since the last flush. A killed server loses them.

    A database that does not store them is reported once for each reason, and no request fails.
    """

    def __init__(self, store: Store, *, enabled: bool) -> None:
        self._store = store
        self._enabled = enabled
        self._asked: Counter[Asked] = Counter()
        self._reported: set[str] = set()

    def add(self, collection: Collection, mode: Mode, text: str) -> None:
        """Record a query that was answered. Nothing is recorded unless the settings allow it."""
        asked = Asked(collection.name, mode, clean_text(text))
        if self._enabled and (asked in self._asked or len(self._asked) < MOST_BUFFERED):
            self._asked[asked] += 1

    async def run(self) -> None:
        """Flush the buffer every FLUSH_SECONDS, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Keep what is in the buffer, and empty it in any case."""
        asked, self._asked = self._asked, Counter()
        if not asked:
            return
        try:
            await keep(self._store, asked)
        except errors.BacklineError as error:
            if str(error) not in self._reported:
                self._reported.add(str(error))
                log.warning("queries are not kept", error=str(error))
        except Exception:
            log.exception("bug")

    async def aclose(self) -> None:
        """Keep the rest, if the database stores it in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_FLUSH_SECONDS):
                await self.flush()
