"""The verbs that adopt the vectors that a table holds when it is declared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from backline.postgres.administration import AdministrationVerbs, declaration, declare
from backline.sql import query
from backline.types import Collection


class SampledRow(NamedTuple):
    """A row with the vector that its column holds."""

    key: str
    content: str
    vector: list[float]


class AdoptedPage(NamedTuple):
    """The result of adopting one page of rows."""

    scanned: int
    adopted: int
    last_key: str | None


class AdoptionVerbs(AdministrationVerbs):
    """Samples and stamps vectors that are there already."""

    async def adoption_sample(
        self, name: str, table: int, limit: int, **parts: Any
    ) -> tuple[int, list[SampledRow]]:
        """Return how many vectors a column holds, and up to `limit` random rows with their texts.

        Declares the table and rolls back, so that what cannot be declared is found first. The
        sample is read after that, without a lock.

        Args:
            name: of the collection.
            table: its oid.
            limit: of rows.
            parts: the other parts of a declaration, as in `add_collection`.

        Raises:
            ConfigurationError: the table cannot be declared.

        """
        declared = declaration(name, table, existing="adopt", **parts)
        with suppress(psycopg.Rollback):
            async with self.connector.transaction() as transaction:
                added = await declare(transaction, declared)
                rows = await transaction.fetch(query("definition_of"), {"collection": added})
                raise psycopg.Rollback
        values = {"table": table, "column": parts["column"], "limit": limit, **rows[0]}
        held = await self.connector.fetch_one(query("vectors_in"), values)
        if not held["count"]:
            return 0, []
        rows = await self.connector.fetch(query("adoption_sample"), values)
        return held["count"], [SampledRow(*row.values()) for row in rows]

    async def begin_adoption(
        self, name: str, table: int, embed_again: Sequence[str], **parts: Any
    ) -> None:
        """Declare a table with vectors to adopt, except those of the rows `embed_again`."""
        async with self.connector.transaction() as transaction:
            added = await declare(transaction, declaration(name, table, existing="adopt", **parts))
            await transaction.execute(
                query("embed_again"), {"collection": added, "keys": list(embed_again)}
            )

    async def adopt_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> AdoptedPage:
        """Stamp the vectors of the next `limit` rows after the key `after`."""
        record = await self._rpc.record(
            "adopt_page", collection=collection.id, after=after, limit=limit
        )
        return AdoptedPage(record["scanned"], record["adopted"], record["last_key"])

    async def finish_adoption(self, collection: Collection) -> None:
        """Record that every row was seen by `adopt_page`, and count them."""
        await self._rpc.value("finish_adoption", collection=collection.id)
        await self.recount(collection.id)
        if collection.where_sql is not None:
            async for _ in self._pages("exclude_page", {"collection": collection.id}):
                pass
