"""Search: rank the rows of a collection for a query."""

from __future__ import annotations

from backline import errors
from backline.embedders.base import Embedder
from backline.store import Store
from backline.types import Collection, SearchHit


async def semantic(
    store: Store, collection: Collection, embedder: Embedder, query: str, limit: int = 10
) -> list[SearchHit]:
    """The rows whose vectors are nearest to the query's, best first; scores are cosines.

    Raises:
        ModelMismatchError: the collection is embedded with another model than the query would be.
        UsageError: the query is empty.
    """
    if not query.strip():
        raise errors.UsageError("The query is empty. Say what to look for.")
    if embedder.model.identity != collection.model.identity:
        raise errors.ModelMismatchError(
            f"The collection {collection.name!r} is embedded with {collection.model}, the query "
            f"would be with {embedder.model}. Vectors of two models cannot be compared."
        )
    [vector] = await embedder.embed([embedder.truncate(query)], purpose="query")
    return await store.search_dense(collection, vector, limit)
