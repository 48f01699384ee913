"""Merge the copied records into the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from backline import errors
from backline.loading.copy import NUMBER, REFUSED, does_not_fit, names_of
from backline.loading.readers import InputFile
from backline.loading.table import Table
from backline.postgres.connector import Transaction

_RANGE: Final = sql.SQL("l.{} > {} and l.{} <= {}")


async def merge_records(
    transaction: Transaction,
    file: InputFile,
    target: Table,
    columns: Sequence[str],
    key: Sequence[str],
    count: int,
) -> tuple[int, int]:
    """Merge the copied records into the target; return how many were inserted and updated.

    Without a key every record is inserted.

    Raises:
        InputFileError: a record lacks its key or repeats another's, or breaks a constraint.
    """
    if key:
        await _check_keys(transaction, file, key)
    # Deferred constraints would be checked at the commit, where no record can be named.
    await transaction.execute("set constraints all immediate")
    merge = _Merge(transaction, target, columns, key)
    try:
        return await merge.of(0, count)
    except REFUSED as error:
        number = await merge.first_refused(error, count)
        raise does_not_fit(file, target, error, number) from None


class _Merge:
    """Inserts and updates by ranges of records."""

    def __init__(
        self,
        transaction: Transaction,
        target: Table,
        columns: Sequence[str],
        key: Sequence[str],
    ) -> None:
        self._transaction = transaction
        self._others = [name for name in columns if name not in key]
        self._key = key
        self._parts = {
            "t": target.identifier,
            "columns": names_of(columns),
            "same": sql.SQL(" and ").join(
                sql.SQL("t.{0} = l.{0}").format(sql.Identifier(name)) for name in key
            ),
        }

    async def of(self, after: int, last: int) -> tuple[int, int]:
        """Merge the records after one number up to another, or change nothing."""
        await self._transaction.execute("savepoint backline_merge")
        try:
            updated = await self._update(after, last) if self._key and self._others else 0
            inserted = await self._insert(after, last)
        except psycopg.Error:
            await self._transaction.execute("rollback to savepoint backline_merge")
            raise
        await self._transaction.execute("release savepoint backline_merge")
        return inserted, updated

    async def first_refused(self, error: psycopg.Error, count: int) -> int | None:
        """Return the number of the first record that raises the error, by halving the range.

        None if other records raise another error first.
        """
        if isinstance(error, psycopg.errors.ForeignKeyViolation):
            return None  # a part of the file may lack the rows that it references
        merged, refused = 0, count
        while refused - merged > 1:
            middle = (merged + refused) // 2
            try:
                await self.of(merged, middle)
                merged = middle
            except psycopg.Error as other:
                if other.sqlstate != error.sqlstate:
                    return None
                refused = middle
        return refused

    async def _update(self, after: int, last: int) -> int:
        """Update the rows that differ from their record; equal rows stay untouched.

        Compares texts: 1.1 and 1.10 are equal as numbers, and json has no equality.
        """
        names = [sql.Identifier(name) for name in self._others]
        return await self._transaction.execute(
            sql.SQL(
                "update {t} t set {set} from pg_temp.backline_load l "
                "where {range} and {same} and ({old}) is distinct from ({new})"
            ).format(
                **self._parts,
                range=_range(after, last),
                set=sql.SQL(", ").join(sql.SQL("{0} = l.{0}").format(name) for name in names),
                old=sql.SQL(", ").join(sql.SQL("t.{}::text").format(name) for name in names),
                new=sql.SQL(", ").join(sql.SQL("l.{}::text").format(name) for name in names),
            )
        )

    async def _insert(self, after: int, last: int) -> int:
        missing = sql.SQL("not exists (select from {t} t where {same})").format(**self._parts)
        return await self._transaction.execute(
            sql.SQL(
                "insert into {t} ({columns}) overriding system value "
                "select {columns} from pg_temp.backline_load l where {range} and {missing} "
                "order by {number}"
            ).format(
                **self._parts,
                range=_range(after, last),
                missing=missing if self._key else sql.SQL("true"),
                number=sql.Identifier(NUMBER),
            )
        )


def _range(after: int, last: int) -> sql.Composed:
    number = sql.Identifier(NUMBER)
    return _RANGE.format(number, sql.Literal(after), number, sql.Literal(last))


async def _check_keys(transaction: Transaction, file: InputFile, key: Sequence[str]) -> None:
    """Raise InputFileError for a record without a key, or two records with the same one."""
    names = names_of(key)
    rows = await transaction.fetch(
        sql.SQL(
            "select row({0})::text as key, ({2}) as lacks, count(*) as n, max({1}) as last "
            "from pg_temp.backline_load group by {0} having count(*) > 1 or ({2}) limit 1"
        ).format(
            names,
            sql.Identifier(NUMBER),
            sql.SQL(" or ").join(
                sql.SQL("{} is null").format(sql.Identifier(name)) for name in key
            ),
        )
    )
    if not rows:
        return
    [row] = rows
    name, place = ", ".join(key), file.place(row["last"])
    if row["lacks"]:
        raise errors.InputFileError(
            f"{file.name} has records without the key {name!r} ({row['n']:,} of them, the last at "
            f"{place}). Nothing was loaded; give each record one, or name another field with --key."
        )
    raise errors.InputFileError(
        f"{file.name} has the key {row['key'].strip('()')!r} {row['n']} times, the last at "
        f"{place}. Nothing was loaded; keep one record of each key."
    )
