"""The keyword index of a collection, made on the first search where nobody has made it yet."""

from __future__ import annotations

import asyncio

from backline.postgres.store import Store
from backline.search.indexes import ensure_keywords, keyword_index
from backline.types import Collection


class Keywords:
    """Knows which collections can be searched by words, so that only the first search asks."""

    def __init__(self) -> None:
        self._built: set[int] = set()
        self._building = asyncio.Lock()

    async def ensure(self, store: Store, collection: Collection) -> None:
        """Index what is not indexed; searches that come meanwhile wait for it."""
        if collection.id in self._built:
            return
        async with self._building:
            if not (await keyword_index(store, collection)).built:
                await ensure_keywords(store, collection)
            self._built.add(collection.id)
