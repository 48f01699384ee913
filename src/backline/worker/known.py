"""Leave out the passages of texts that have a vector already."""

from __future__ import annotations

from collections.abc import Sequence

from backline.store import JobStore
from backline.types import Collection
from backline.worker.backlog import PendingText


async def keep_known(
    store: JobStore, collection: Collection, texts: Sequence[tuple[PendingText, Sequence[str]]]
) -> None:
    """Remove from each text the passages that have a vector in all of its rows, given by key."""
    asked = [
        (key, part.content_hash) for text, keys in texts for part in text.parts for key in keys
    ]
    if not asked:
        return
    known = await store.known_passages(collection, asked)
    unknown = {each for each, is_known in zip(asked, known, strict=True) if not is_known}
    for text, keys in texts:
        text.keep_vectors(
            {
                part.content_hash
                for part in text.parts
                if all((key, part.content_hash) not in unknown for key in keys)
            }
        )
