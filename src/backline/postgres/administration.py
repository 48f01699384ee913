"""The verbs that need SQL access: declaring collections, and repairing their drift."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, TypeAlias

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from backline import errors
from backline.postgres.connector import Connector, Transaction
from backline.postgres.schema import FATAL, schema_problems
from backline.sql import query
from backline.store import DriftPage
from backline.store_verbs import CollectionVerbs
from backline.types import Collection, LongText, Model, Problem, Splitting

# Schema changes and repairs give up on a lock held by another transaction, so that they do not
# block the statements that queue behind them.
_SCHEMA_LOCK = "set local lock_timeout = '5s'"
_ROW_LOCK = "set local lock_timeout = '200ms'"
_PAGE = 1000
# A view without a declared key is read once, for as long as this.
_UNIQUE_TIMEOUT = "set local statement_timeout = '30s'"

Existing: TypeAlias = Literal["refuse", "adopt", "overwrite"]
"""What to do with the vectors that a column holds when its table is declared."""


class AdministrationVerbs(CollectionVerbs):
    """Declares collections, inspects their tables, and finds and repairs drift."""

    connector: Connector

    async def collections(self) -> list[Collection]:
        """Return every declared collection.

        Raises:
            NotMigratedError: the database has no Backline schema.
            ExtensionMissingError: pgvector was dropped after the migration.

        """
        state = await self.connector.fetch_one(query("is_migrated"))
        if not state["migrated"]:
            raise errors.NotMigratedError
        if not state["has_vector"]:
            raise errors.ExtensionMissingError(
                "pgvector was dropped from this database, and every vector with it. Enable it "
                "again, declare the collections again (backline drop, backline add), and backfill."
            )
        return await super().collections()

    async def find_table(self, name: str) -> DictRow:
        """Return oid, schema, name and kind of a table, given as `table` or `schema.table`.

        The name is read as it stands, and otherwise as in SQL: folded to lower case unless quoted.

        Raises:
            UsageError: several tables have that name.
            TableNotFoundError: no such table exists; the message lists up to 20 that do.

        """
        rows = await self.connector.fetch(query("find_table"), {"table": name})
        if len(rows) > 1:
            names = ", ".join(row["quoted"] for row in rows)
            raise errors.UsageError(f"Several tables are named {name!r}. Write one of: {names}.")
        if rows:
            return rows[0]
        existing = await self.connector.fetch(query("tables_like"))
        tables = ", ".join(row["name"] for row in existing) or "none"
        raise errors.TableNotFoundError(
            f"There is no table {name!r} in this database. Tables: {tables}."
        )

    async def add_collection(  # noqa: PLR0913  the parts of a declaration
        self, name: str, table: int, *, key: str | Sequence[str] | None,
        template: str | None, column: str, model: Model, column_type: str = "vector",
        long_text: LongText = "truncate", published: bool = False, into: str | None = None,
        text_sql: str | None = None, where: str | None = None, language: str | None = None,
        language_column: str | None = None, follow: str | None = None,
        existing: Existing = "refuse", splitting: Splitting | None = None, partitions: int = 1,
    ) -> int:  # fmt: skip
        """Declare a table for embedding; return the id of the collection.

        Adds the vector column if it is missing, and the triggers that enqueue edited rows.

        Args:
            name: of the collection.
            table: its oid; see `find_table`.
            key: unique NOT NULL columns; default: the primary key.
            template: of a row's text; None with `text_sql`.
            column: of the vectors.
            model: of the vectors.
            column_type: "vector" or "halfvec", if the column is created.
            long_text: how to embed texts longer than the model reads.
            published: whether the subscribers of a published table have the column.
            language: of the keywords; default: guessed from the first texts.
            language_column: holds the language of each row's keywords, such as "de".
            into: the side table to make for the vectors; default: they are in a column.
            text_sql: the text as an SQL expression over the row `r`, in place of a template.
            where: a condition on rows, an SQL expression over the row `r`; default: every row.
            follow: the column that a poll reads instead of triggers; needs `into`.
            existing: what to do with vectors that the column holds. "overwrite" makes every row
                due; to adopt them, call `backline.adopt`.
            splitting: how to split texts into passages, which takes a side table.
            partitions: of the side table, by ranges of the present keys.

        Raises:
            UsageError, TableNotFoundError, ColumnNotFoundError, KeyMissingError: the table, its
                columns, the text or the condition do not permit it. Nothing was changed.
            DimensionMismatchError: the column holds other vectors than the model's.
            CollectionExistsError: the name or the column is taken.
            VectorsExistError: the column holds vectors.

        """
        declared = declaration(
            name, table, key=key, template=template, column=column, column_type=column_type,
            long_text=long_text, published=published, into=into, text_sql=text_sql, where=where,
            language=language, language_column=language_column, follow=follow, existing=existing,
            model=model, splitting=splitting, partitions=partitions,
        )  # fmt: skip
        if follow is not None and declared["key"]:
            await self._check_unique(table, declared["key"])
        async with self.connector.transaction() as transaction:
            added = await declare(transaction, declared)
        await self.recount(added)
        if where is not None:
            async for _ in self._pages("exclude_page", {"collection": added}):
                pass
        return added

    async def _check_unique(self, table: int, key: Sequence[str]) -> None:
        """Raise if rows of a source share a key, unless finding out takes too long."""
        values = {"table": table, "key": list(key)}
        with suppress(errors.StatementTimeoutError, errors.ColumnNotFoundError):
            async with self.connector.transaction() as transaction:
                await transaction.execute(_UNIQUE_TIMEOUT)
                await transaction.execute(query("check_unique"), values)

    async def _pages(self, verb: str, values: Mapping[str, Any]) -> AsyncIterator[DictRow]:
        """Call a verb for each page of a table, and yield its results."""
        after: str | None = None
        while True:
            parameters = {**values, "after": after, "limit": _PAGE}
            fetch = partial(self.connector.fetch, query(verb), parameters)
            [page] = await self._guarded(values["collection"], fetch)
            yield page
            if page["scanned"] < _PAGE:
                return
            after = page["last_key"]

    async def drop_collection(self, collection: Collection, *, drop_column: bool) -> None:
        """Delete a collection and its triggers; with `drop_column`, also the column of vectors.

        The table is locked for a moment only, because its records are deleted afterwards.
        """
        for part, column in (("drop_place", drop_column), ("drop_collection", False)):
            async with self.connector.transaction() as transaction:
                await transaction.execute(_SCHEMA_LOCK)
                values = {"collection": collection.id, "drop_column": column}
                await transaction.execute(query(part), values)

    async def set_model(self, collection: Collection, model: Model) -> None:
        """Declare another model for a collection, which makes every row due."""
        values = {"collection": collection.id, **_identity(model)}
        await self.connector.execute(query("set_model"), values)

    async def set_where(self, collection: Collection, where: str | None) -> int:
        """Change the condition on rows, and enqueue those that it moves in or out.

        If it is interrupted, `problems` reports it until `reconcile` has compared every row.

        Args:
            collection: whose condition changes.
            where: an SQL expression over the row `r`; None for every row.

        Returns:
            The number of rows that moved.

        Raises:
            UsageError, ColumnNotFoundError: the condition is not one of a row. Nothing was changed.

        """
        async with self.connector.transaction() as transaction:
            await transaction.execute(_SCHEMA_LOCK)
            values: dict[str, Any] = {"collection": collection.id, "where": where}
            [declared] = await transaction.fetch(query("set_where"), values)
        values = {"collection": collection.id, **declared}
        pages = self._pages("log_condition_change", values)
        return sum([int(page["moved"]) async for page in pages])

    async def set_text(
        self, collection: Collection, *, template: str | None = None, text_sql: str | None = None
    ) -> int:
        """Change the text of a collection, and enqueue the rows that it changes.

        If it is interrupted, `problems` reports it until `reconcile` has compared every row.

        Args:
            collection: whose text changes.
            template: of a row's text; None with `text_sql`.
            text_sql: the text as an SQL expression over the row `r`.

        Returns:
            The number of rows with another text.

        Raises:
            UsageError, ColumnNotFoundError: it is not a text of a row. Nothing was changed.

        """
        values: dict[str, Any] = {
            "collection": collection.id, "template": template, "text_sql": text_sql,
        }  # fmt: skip
        async with self.connector.transaction() as transaction:
            await transaction.execute(_SCHEMA_LOCK)
            await transaction.execute(query("set_text"), values)
        pages = self._pages("log_text_change", {"collection": collection.id})
        return sum([int(page["moved"]) async for page in pages])

    async def recount(self, collection: int, *, correct: bool = True) -> dict[str, int]:
        """Count the rows of a collection, and with `correct` repair its counters.

        Returns:
            The error of each counter that is wrong.
        """
        corrected: dict[str, int] = await self._rpc.value(
            "recount", collection=collection, correct=correct
        )
        return corrected

    async def hnsw_indexes(self, collection: Collection) -> list[str]:
        """Return the names of the HNSW indexes on the vector column. Each slows every write."""
        rows = await self.connector.fetch(query("hnsw_indexes"), {"collection": collection.id})
        return [row["name"] for row in rows]

    async def schema_problems(self) -> list[Problem]:
        """Return what is missing, changed or without privileges in the schema `backline`."""
        return await schema_problems(self.connector)

    async def problems(self, collection: Collection) -> tuple[Problem, ...]:
        """Return what makes the coverage of a collection untrue, and damage of the schema."""
        damage = tuple(await schema_problems(self.connector))
        if any(each.kind in FATAL for each in damage):  # other statements may fail
            return damage
        return (*damage, *await super().problems(collection))

    # --- sources that are polled ---

    async def poll_source(self, collection: Collection, sweep_every: float) -> tuple[float, bool]:
        """Log the rows of a source without triggers that have a newer version.

        Returns:
            The seconds to wait before the next poll, and whether to sweep the source now.
        """
        record = await self._rpc.record(
            "poll_source", collection=collection.id, sweep_every=sweep_every
        )
        return float(record["wait"] or 0), record["sweep"]

    async def sweep_page(
        self, collection: Collection, of: str, after: str | None, limit: int
    ) -> tuple[int, int, str | None]:
        """Compare a page of a source that is polled; `of` is "rows", or as in `reconcile_orphans`.

        Returns:
            How many were compared and how many logged, and the last key.
        """
        record = await self._rpc.record(
            "sweep_page", collection=collection.id, of=of, after=after, limit=limit
        )
        return record["scanned"], record["logged"], record["last_key"]

    async def count_source(self, collection: Collection) -> None:
        """Count the rows of a source that is polled."""
        await self._rpc.value("count_source", collection=collection.id)

    # --- reconcile ---

    async def trigger_problems(self, collection: Collection) -> list[tuple[str, str]]:
        """Return (name, problem) of the triggers that do not fire."""
        rows = await self.connector.fetch(query("trigger_problems"), {"collection": collection.id})
        return [(row["name"], row["problem"]) for row in rows]

    async def install_triggers(self, collection: Collection) -> None:
        """Create the triggers that enqueue edited rows again, replacing the old ones."""
        async with self.connector.transaction() as transaction:
            await transaction.execute(_SCHEMA_LOCK)
            await transaction.execute(query("install_triggers"), {"collection": collection.id})

    async def repoint(self, collection: Collection, *, published: bool = False) -> bool:
        """Follow the table that has the collection's name now; return whether it is another one.

        Adds the vector column if it is gone.

        Raises:
            TableNotFoundError, ColumnNotFoundError, KeyMissingError: it lacks what is needed.
            UsageError: without `published`, a published table lacks the vector column.

        """
        async with self.connector.transaction() as transaction:
            await transaction.execute(_SCHEMA_LOCK)
            parameters = {"collection": collection.id, "published": published}
            rows = await transaction.fetch(query("repoint"), parameters)
        return bool(rows[0]["repointed"])

    async def begin_scan(self, collection: Collection) -> Mapping[str, Any]:
        """Return the state that `finish_scan` takes after a scan of every row."""
        begun: Mapping[str, Any] = await self._rpc.value("begin_scan", collection=collection.id)
        return begun

    async def finish_scan(self, collection: Collection, begun: Mapping[str, Any]) -> None:
        """Record that every row was compared since `begin_scan`."""
        await self._rpc.value("finish_scan", collection=collection.id, begun=Jsonb(dict(begun)))

    async def reconcile_page(
        self, collection: Collection, after: str | None, limit: int, *, repair: bool
    ) -> DriftPage:
        """Find due rows without a job among the next `limit`, and with `repair` enqueue them.

        Raises:
            ContentionError: another transaction holds one of the rows; nothing was changed.

        """
        row = await self._reconcile(
            "reconcile_page",
            {"collection": collection.id, "after": after, "limit": limit, "repair": repair},
        )
        drift = [(item["problem"], item["key"]) for item in row["problems"]]
        return DriftPage(row["scanned"], drift, row["last_key"])

    async def reconcile_orphans(
        self, collection: Collection, of: str, after: str | None, limit: int, *, repair: bool
    ) -> DriftPage:
        """Find `of` without a row; with `repair` delete them.

        `of` is "stamps", "jobs", "failures" or "vectors", which are those of a side table.
        """
        row = await self._reconcile(
            "reconcile_orphans",
            {"collection": collection.id, "of": of, "after": after, "limit": limit,
             "repair": repair},
        )  # fmt: skip
        return DriftPage(row["scanned"], [(of, key) for key in row["keys"]], row["last_key"])

    async def _reconcile(self, verb: str, values: Mapping[str, Any]) -> DictRow:
        async with self.connector.transaction() as transaction:
            await transaction.execute(_ROW_LOCK)
            return (await transaction.fetch(query(verb), values))[0]


def declaration(
    name: str, table: int, *, key: str | Sequence[str] | None, model: Model,
    splitting: Splitting | None = None, **parts: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return the parameters of `declare`."""
    absent = dict.fromkeys(("text_sql", "where", "language", "language_column", "follow"))
    absent["partitions"] = 1
    return {
        "name": name, "table": table, "key": [key] if isinstance(key, str) else key, **absent,
        "passages": None if splitting is None else Jsonb(asdict(splitting)), **parts,
        **_identity(model),
    }  # fmt: skip


async def declare(transaction: Transaction, declared: Mapping[str, Any]) -> int:
    """Declare a collection in a transaction; return its id."""
    await transaction.execute(_SCHEMA_LOCK)
    rows = await transaction.fetch(query("add_collection"), declared)
    return int(rows[0]["id"])


def _identity(model: Model) -> dict[str, Any]:
    return {
        "provider": model.provider,
        "model": model.name,
        "revision": model.revision,
        "dimensions": model.dimensions,
    }
