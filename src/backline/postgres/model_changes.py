"""The verbs that change the model of a collection while it is searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backline.postgres.adoption import AdoptionVerbs
from backline.sql import query
from backline.types import Collection

# A statement that waits for a lock of the host's table makes later statements wait behind it.
_BRIEF_LOCK = "set local lock_timeout = '200ms'"


class ModelChangeVerbs(AdoptionVerbs):
    """Makes, fills, swaps and drops the targets of a change; see model_change.sql."""

    async def begin_change(self, name: str, target: Mapping[str, Any]) -> int:
        """Make the second target of a collection; return the number of the change."""
        async with self.connector.transaction() as transaction:
            await transaction.execute(_BRIEF_LOCK)
            [row] = await transaction.fetch(query("begin_change"), {"name": name, **target})
        return int(row["id"])

    async def thaw(self, name: str) -> bool:
        """Record edits for the former target again; return whether it was frozen."""
        return bool(await self._rpc.value("thaw_target", name=name))

    async def freeze(self, name: str) -> None:
        """Stop recording edits for the former target."""
        await self._rpc.value("freeze_target", name=name)

    async def begin_discard(self, name: str, *, retire: bool) -> int | None:
        """Begin to drop the former target, or else the new one.

        Returns:
            The id of its collection; None if the last change ended so already.
        """
        collection = await self._rpc.value("begin_discard", name=name, retire=retire)
        return None if collection is None else int(collection)

    async def finish_discard(self, name: str) -> None:
        """End a change, after its target was dropped."""
        await self._rpc.value("finish_discard", name=name)

    async def drop_place(self, collection: int, *, drop_column: bool) -> None:
        """Drop the triggers and the vectors of a collection, in a short transaction."""
        async with self.connector.transaction() as transaction:
            await transaction.execute(_BRIEF_LOCK)
            await transaction.execute(
                query("drop_place"), {"collection": collection, "drop_column": drop_column}
            )

    async def targets_of(self, name: str) -> list[tuple[int, str, int, bool]]:
        """Return id, name, model and whether it is frozen, of each target of a collection."""
        rows = await self.connector.fetch(query("targets_of"), {"name": name})
        return [(row["id"], row["name"], row["model_id"], row["frozen"]) for row in rows]

    async def target(self, collection: int) -> Collection | None:
        """Return the collection of this id, if it exists."""
        found = [each for each in await self.collections() if each.id == collection]
        return found[0] if found else None
