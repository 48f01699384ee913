"""Find the table that a file is loaded into, or create it from a sample of the records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from backline import errors
from backline.loading.readers import Record
from backline.postgres.connector import Transaction

KEY_NAMES: Final = ("id", "_id", "key", "uuid")
"""Fields that become the primary key of a new table if no other key is named."""

_IDENTITY: Final = "id"
_LONGEST_NAME: Final = 63
"""Bytes of an identifier. Postgres truncates longer ones without an error."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with the types of its columns; `key` is its single-column primary key, if any."""

    schema: str
    name: str
    columns: dict[str, str]
    key: str | None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


async def parse_name(transaction: Transaction, table: str) -> list[str]:
    """Return the parts of a table name, folded to lower case unless quoted, as in SQL.

    Raises:
        UsageError: the name does not parse, or has more than two parts.
    """
    try:
        [row] = await transaction.fetch("select parse_ident(%s) as parts", [table])
    except psycopg.DataError:
        raise errors.UsageError(
            f"{table!r} is not a table name. Write name or schema.name; other characters than "
            "letters, digits and _ need double quotes inside the shell's: '\"my-table\"'."
        ) from None
    parts: list[str] = row["parts"]
    if len(parts) > 2:
        raise errors.UsageError(f"{table!r} has too many parts. Write name or schema.name.")
    return parts


async def find_table(transaction: Transaction, name: Sequence[str]) -> Table | None:
    """Return the table of that name, or None if it does not exist.

    Raises:
        UsageError: the name belongs to a view or another relation that is not a table.
    """
    rows = await transaction.fetch(
        "select n.nspname as schema, k.relname as name, a.attname as column, "
        "  k.relkind in ('r', 'p') as is_table, "
        "  pg_catalog.format_type(a.atttypid, a.atttypmod) as type, "
        "  coalesce(i.indisprimary, false) as key "
        "from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace "
        "join pg_catalog.pg_attribute a on a.attrelid = k.oid and a.attnum > 0 "
        "  and not a.attisdropped and a.attgenerated = '' "
        "left join pg_catalog.pg_index i on i.indrelid = k.oid and i.indisprimary "
        "  and i.indnkeyatts = 1 and i.indkey[0] = a.attnum "
        "where k.oid = to_regclass(%s) order by a.attnum",
        [sql.Identifier(*name).as_string(None)],
    )
    if not rows:
        return None
    if not rows[0]["is_table"]:
        raise errors.UsageError(f"{'.'.join(name)} is not a table. Load into a table.")
    key = next((row["column"] for row in rows if row["key"]), None)
    return Table(
        rows[0]["schema"], rows[0]["name"], {row["column"]: row["type"] for row in rows}, key
    )


async def create_table(
    transaction: Transaction,
    file: Path,
    name: Sequence[str],
    sample: Sequence[Record],
    key: str | None,
) -> Table:
    """Create a table with a column for each field of the sample, and a primary key.

    Raises:
        InputFileError: a field's name cannot be the name of a column.
        KeyMissingError: the sample has no field `key`.
        TableNotFoundError: the schema does not exist, or is outside the search path.
    """
    names = field_names(sample)
    _check_names(file, names)
    if key is not None and key not in names:
        raise no_key(key, names)
    columns = {field: _sql_type(record.get(field) for record in sample) for field in names}
    key = key or next((name for name in KEY_NAMES if name in names), None)
    try:
        await transaction.execute(_create_statement(name, columns, key))
    except psycopg.errors.InvalidSchemaName:
        raise errors.TableNotFoundError(
            f"There is no schema {name[0]!r} to create the table in. "
            f"Create it first: create schema {name[0]};"
        ) from None
    table = await find_table(transaction, name)
    if table is None:
        raise errors.TableNotFoundError(
            f"The table {name[-1]!r} was created outside the search path. Write it as schema.name."
        )
    return table


def _create_statement(
    name: Sequence[str], columns: Mapping[str, str], key: str | None
) -> sql.Composed:
    """Return CREATE TABLE with `key` as the primary key, or with a new identity column."""
    lines = [sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(t)) for n, t in columns.items()]
    if key is None:
        identity = sql.SQL("{} bigint generated by default as identity")
        lines.insert(0, identity.format(sql.Identifier(_IDENTITY)))
    lines.append(sql.SQL("primary key ({})").format(sql.Identifier(key or _IDENTITY)))
    return sql.SQL("create table {} ({})").format(sql.Identifier(*name), sql.SQL(", ").join(lines))


def field_names(records: Sequence[Record]) -> list[str]:
    """Return the distinct field names of the records, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record))


def columns_of(sample: Sequence[Record], table: Table) -> list[str]:
    """Return the columns that the sample fills.

    Raises:
        InputFileError: the table lacks a column.
    """
    names = field_names(sample)
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise errors.InputFileError(
            f"The table {table} has no column {', '.join(map(repr, missing))}. "
            f"Its columns: {', '.join(table.columns)}. Nothing was loaded."
        )
    return names


def no_key(key: str, names: Sequence[str]) -> errors.KeyMissingError:
    """Return the error for records without the field that was named as the key."""
    return errors.KeyMissingError(
        f"The records have no field {key!r} to be the key. Fields: {', '.join(names)}."
    )


def _check_names(file: Path, names: Sequence[str]) -> None:
    for name in names:
        if not name or "\0" in name or len(name.encode()) > _LONGEST_NAME:
            raise errors.InputFileError(
                f"{file} has the field {name[:80]!r}, which cannot be the name of a column: it "
                f"must have 1 to {_LONGEST_NAME} bytes. Nothing was loaded; rename the field."
            )


def _sql_type(values: Iterable[Any]) -> str:
    """Return the narrowest SQL type that holds all the values."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        return "bigint"
    if kinds and kinds <= {int, float}:
        return "double precision"
    if kinds & {dict, list}:
        return "jsonb"
    return _PARQUET_TYPES.get(next(iter(kinds)), "text") if len(kinds) == 1 else "text"


_PARQUET_TYPES: Final[Mapping[type, str]] = {
    datetime: "timestamptz",
    date: "date",
    Decimal: "numeric",
    bytes: "bytea",
}
