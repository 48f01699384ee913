"""Builds the keyword index of a collection before its first search."""

from __future__ import annotations

import asyncio

from backline.postgres.store import Store
from backline.search.indexes import ensure_keywords, keyword_index
from backline.types import Collection


class KeywordIndexer:
    """Remembers which collections are indexed, so that only the first search checks."""

    def __init__(self) -> None:
        self._built: set[int] = set()
        self._building = asyncio.Lock()

    async def ensure(self, store: Store, collection: Collection) -> None:
        """Index the keywords of a collection if necessary. Concurrent searches wait."""
        if collection.id in self._built:
            return
        async with self._building:
            if not (await keyword_index(store, collection)).built:
                await ensure_keywords(store, collection)
            self._built.add(collection.id)
