"""Copy records into a temporary table, and merge that table into the target."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from backline import errors
from backline.loading.readers import Record
from backline.loading.table import Table
from backline.postgres.connector import Transaction

SAMPLE: Final = 1000
"""Records that decide the columns of the load. Later records may not add a field."""


async def copy_records(
    transaction: Transaction,
    file: Path,
    target: Table,
    columns: Sequence[str],
    records: Iterable[Record],
) -> int:
    """Copy the records into the temporary table `backline_load`; return how many there were.

    Raises:
        InputFileError: a record has a field outside `columns`, or a value of the wrong type.
    """
    names = _names(columns)
    await transaction.execute(
        sql.SQL(
            "create temporary table backline_load on commit drop as select {} from {} with no data"
        ).format(names, target.identifier)
    )
    statement = sql.SQL("copy pg_temp.backline_load ({}) from stdin").format(names)
    try:
        return await transaction.copy_rows(statement, _rows(file, target, columns, records), ())
    except psycopg.DataError as error:
        raise _does_not_fit(file, target, error) from None


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _does_not_fit(file: Path, target: Table, error: psycopg.Error) -> errors.InputFileError:
    """Return the error for a rejected value, with its record and field if Postgres names them."""
    context = error.diag.context or ""
    match = re.search(r"line (\d+)(?:, column ([^:]+))?", context)
    place = f"record {match[1]}" if match else context
    if match and match[2]:
        place += f", field {match[2]!r}"
    message = str(error.diag.message_primary)
    if isinstance(error, psycopg.errors.UniqueViolation | psycopg.errors.ForeignKeyViolation):
        # The detail of these two names the key; that of other violations holds the whole row.
        message += f". {error.diag.message_detail}"
    return errors.InputFileError(
        f"{file}{', ' if place else ''}{place} does not fit the table {target}: "
        f"{message.rstrip('.')}. Nothing was loaded."
    )


async def _rows(
    file: Path, target: Table, columns: Sequence[str], records: Iterable[Record]
) -> AsyncIterator[list[Any]]:
    expected = set(columns)
    as_json = {name for name in columns if target.columns[name] in ("json", "jsonb")}
    for number, record in enumerate(records, start=1):
        if not record.keys() <= expected:
            extra = ", ".join(repr(name) for name in record if name not in expected)
            raise errors.InputFileError(
                f"{file}, record {number} has the field {extra}, which none of the first {SAMPLE} "
                "has. Nothing was loaded; add it to an earlier record, or leave it out."
            )
        yield [
            _copy_value(file, number, name, record.get(name), as_json=name in as_json)
            for name in columns
        ]


def _copy_value(file: Path, number: int, name: str, value: Any, *, as_json: bool) -> Any:
    if value is None:
        return None
    if as_json or isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and not _is_storable(value, as_json=as_json):
        raise errors.InputFileError(
            f"{file}, record {number}, field {name!r} holds a NUL or half a surrogate pair, which "
            "Postgres cannot store as text. Nothing was loaded; remove the character."
        )
    return value


def _is_storable(text: str, *, as_json: bool) -> bool:
    if "\0" in text or (as_json and "\\u0000" in text):
        return False
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


async def merge_records(
    transaction: Transaction, file: Path, target: Table, columns: Sequence[str], key: str | None
) -> tuple[int, int]:
    """Merge the copied records into the target; return how many were inserted and updated.

    Raises:
        InputFileError: a record lacks its key or repeats another's, or breaks a constraint.
    """
    key = key or target.key
    try:
        if key is None or key not in columns:
            return await _append(transaction, target, columns), 0
        await _check_keys(transaction, file, key)
        return await _upsert(transaction, target, columns, key)
    except psycopg.IntegrityError as error:  # NOT NULL, CHECK, UNIQUE or FOREIGN KEY
        raise _does_not_fit(file, target, error) from None


async def _upsert(
    transaction: Transaction, target: Table, columns: Sequence[str], key: str
) -> tuple[int, int]:
    names = {"t": target.identifier, "key": sql.Identifier(key), "columns": _names(columns)}
    others = [sql.Identifier(name) for name in columns if name != key]
    updated = await _update(transaction, names, others) if others else 0
    inserted = await transaction.execute(
        sql.SQL(
            "insert into {t} ({columns}) select {columns} from pg_temp.backline_load l "
            "where not exists (select from {t} t where t.{key} = l.{key})"
        ).format(**names)
    )
    return inserted, updated


async def _update(
    transaction: Transaction, names: dict[str, sql.Composable], others: Sequence[sql.Identifier]
) -> int:
    """Update the rows that differ from their record; equal rows stay untouched."""
    return await transaction.execute(
        sql.SQL(
            "update {t} t set {set} from pg_temp.backline_load l "
            "where t.{key} = l.{key} and ({old}) is distinct from ({new})"
        ).format(
            **names,
            set=sql.SQL(", ").join(sql.SQL("{0} = l.{0}").format(name) for name in others),
            old=sql.SQL(", ").join(sql.SQL("t.{}").format(name) for name in others),
            new=sql.SQL(", ").join(sql.SQL("l.{}").format(name) for name in others),
        )
    )


async def _append(transaction: Transaction, target: Table, columns: Sequence[str]) -> int:
    names = _names(columns)
    return await transaction.execute(
        sql.SQL("insert into {} ({}) select {} from pg_temp.backline_load").format(
            target.identifier, names, names
        )
    )


async def _check_keys(transaction: Transaction, file: Path, key: str) -> None:
    """Raise InputFileError for a record without a key, or two records with the same one."""
    rows = await transaction.fetch(
        sql.SQL(
            "select {0}::text as key, count(*) as n from pg_temp.backline_load "
            "group by {0} having count(*) > 1 or {0} is null limit 1"
        ).format(sql.Identifier(key))
    )
    if rows and rows[0]["key"] is None:
        raise errors.InputFileError(
            f"{file} has records without the key {key!r} ({rows[0]['n']:,} of them). Nothing was "
            "loaded; give each record one, or name another field with --key."
        )
    if rows:
        raise errors.InputFileError(
            f"{file} has the key {rows[0]['key']!r} {rows[0]['n']} times. Nothing was loaded; "
            "keep one record of each key."
        )
