"""Find the table that a file is loaded into, or create it from a sample of the records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import psycopg
from psycopg import sql

from backline import errors
from backline.loading.cells import Record, list_length, sql_type
from backline.loading.readers import InputFile
from backline.postgres.connector import Transaction

KEY_NAMES: Final = ("id", "_id", "key", "uuid")
"""Fields that become the primary key of a new table if no other key is named."""

_IDENTITY: Final = "id"
_LONGEST_NAME: Final = 63
"""Bytes of an identifier. Postgres truncates longer ones without an error."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its type as SQL writes it, and what COPY is given: see `copy_text`."""

    type: str
    kind: str = "other"


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its columns; `key` is its primary key, empty if it has none."""

    schema: str
    name: str
    columns: Mapping[str, Column]
    key: tuple[str, ...]

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
    rows = await transaction.fetch(_COLUMNS, [sql.Identifier(*name).as_string(None)])
    if not rows:
        return None
    if not rows[0]["is_table"]:
        raise errors.UsageError(f"{'.'.join(name)} is not a table. Load into a table.")
    return Table(
        rows[0]["schema"],
        rows[0]["name"],
        {row["column"]: Column(row["type"], row["kind"]) for row in rows},
        tuple(rows[0]["key"] or ()),
    )


_COLUMNS: Final = """
select n.nspname as schema, k.relname as name, a.attname as column,
  k.relkind in ('r', 'p') as is_table,
  pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
  case when coalesce(nullif(t.typbasetype, 0), t.oid)
      in ('pg_catalog.json'::regtype, 'pg_catalog.jsonb'::regtype) then 'json'
    when t.typcategory = 'A' then 'array' when t.typcategory = 'S' then 'text'
    else 'other' end as kind,
  (select pg_catalog.array_agg(c.attname order by o.n)
   from pg_catalog.pg_index i,
     pg_catalog.unnest(i.indkey[:i.indnkeyatts - 1]) with ordinality o (attnum, n),
     pg_catalog.pg_attribute c
   where i.indrelid = k.oid and i.indisprimary and c.attrelid = k.oid
     and c.attnum = o.attnum) as key
from pg_catalog.pg_class k
join pg_catalog.pg_namespace n on n.oid = k.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = k.oid and a.attnum > 0
  and not a.attisdropped and a.attgenerated = ''
join pg_catalog.pg_type t on t.oid = a.atttypid
where k.oid = pg_catalog.to_regclass(%s)
order by a.attnum
"""


async def create_table(
    transaction: Transaction,
    file: InputFile,
    name: Sequence[str],
    sample: Sequence[Record],
    key: str | None,
    vectors: str | None,
) -> Table:
    """Create a table with a column for each field of the sample, and a primary key.

    Raises:
        InputFileError: a field's name cannot be the name of a column.
        KeyMissingError: the sample has no field `key`.
        TableNotFoundError: the schema does not exist, or is outside the search path.
    """
    names = field_names(sample)
    _check_names(file, names)
    key = _new_key(key, names)
    columns = {
        field: file.types.get(field) or _sql_type(sample, field, is_key=field == key)
        for field in names
    }
    if vectors is not None:
        field = _same_name(vectors, names) or _raise(no_vectors(file, names))
        columns[field] = await _vector_type(transaction, file, sample, field)
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


def _new_key(key: str | None, names: Sequence[str]) -> str | None:
    """Return the field that becomes the key of a new table, or None."""
    if key is not None:
        return _same_name(key, names) or _raise(no_key(key, names))
    found = (_same_name(name, names) for name in KEY_NAMES)
    return next((name for name in found if name is not None), None)


def _sql_type(sample: Sequence[Record], field: str, *, is_key: bool) -> str:
    """Return the type of a new column. As numbers, the keys 1.1 and 1.10 were one."""
    found = sql_type(record.cells.get(field) for record in sample)
    return "text" if is_key and found == "numeric" else found


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
    return list(dict.fromkeys(name for record in records for name in record.cells))


def _same_name(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is this name, in the same case if there is such a one."""
    names = list(names)
    if name in names:
        return name
    return next((each for each in names if each.casefold() == name.strip().casefold()), None)


def columns_of(file: InputFile, sample: Sequence[Record], table: Table) -> dict[str, str]:
    """Return the column of each field. Names are the same if they differ only in case.

    Raises:
        InputFileError: the table lacks a column, or two fields would fill the same one.
    """
    columns: dict[str, str] = {}
    missing: list[str] = []
    for field in field_names(sample):
        column = _same_name(field, table.columns)
        if column is None:
            missing.append(field)
        elif column in columns.values():
            raise _both_fill(file, [*columns, field], column)
        else:
            columns[field] = column
    if missing:
        raise errors.InputFileError(
            f"The table {table} has no column {', '.join(map(repr, missing))}. "
            f"Its columns: {', '.join(table.columns)}. Rename the field, or add the column. "
            "Nothing was loaded."
        )
    return columns


def _both_fill(file: InputFile, fields: Sequence[str], column: str) -> errors.InputFileError:
    same = [repr(field) for field in fields if field.casefold() == column.casefold()]
    return errors.InputFileError(
        f"{file.name} has the fields {' and '.join(same)}, which are one column. Nothing was "
        "loaded; rename one of them."
    )


def key_of(key: str | None, table: Table, columns: Mapping[str, str]) -> tuple[str, ...]:
    """Return the columns that identify a record; empty if the file does not fill them.

    Raises:
        KeyMissingError: the file has no field `key`.
    """
    if key is not None:
        named = _same_name(key, columns.values())
        return (named,) if named else _raise(no_key(key, list(columns)))
    return table.key if set(table.key) <= set(columns.values()) else ()


def _raise(error: Exception) -> NoReturn:
    raise error


def no_key(key: str, names: Sequence[str]) -> errors.KeyMissingError:
    """Return the error for records without the field that was named as the key."""
    return errors.KeyMissingError(
        f"The records have no field {key!r} to be the key. Fields: {', '.join(names)}."
    )


def _check_names(file: InputFile, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if not name or "\0" in name or len(name.encode(errors="replace")) > _LONGEST_NAME:
            raise errors.InputFileError(
                f"{file.name} has the field {name[:80]!r}, which cannot be the name of a column: "
                f"it must have 1 to {_LONGEST_NAME} bytes. Nothing was loaded; rename the field."
            )
        if (other := _same_name(name, names[:number])) is not None:
            raise _both_fill(file, [other, name], name)


async def _vector_type(
    transaction: Transaction, file: InputFile, sample: Sequence[Record], field: str
) -> str:
    """Return the type of a new column for vectors.

    Raises:
        InputFileError: the sample has no list in this field.
        ExtensionMissingError: the database has no pgvector.
    """
    cells = (record.cells.get(field) for record in sample)
    dimensions = next((n for cell in cells if cell and (n := list_length(cell))), None)
    if dimensions is None:
        raise no_vectors(file, field_names(sample))
    [row] = await transaction.fetch(
        "select (select pg_catalog.format('%%I.%%I', n.nspname, t.typname) "
        "  from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace "
        "  where t.typname = 'vector' and t.typtype = 'b' limit 1) as type",
        [],
    )
    if row["type"] is None:
        raise errors.ExtensionMissingError(
            "This database has no pgvector. Run: create extension vector; or: backline migrate."
        )
    return f"{row['type']}({dimensions})"


def vector_column(file: InputFile, vectors: str, columns: Mapping[str, str]) -> str:
    """Return the column that the field with vectors fills.

    Raises:
        InputFileError: the file has no such field.
    """
    field = _same_name(vectors, columns)
    if field is None:
        raise no_vectors(file, list(columns))
    return columns[field]


def no_vectors(file: InputFile, names: Sequence[str]) -> errors.InputFileError:
    """Return the error for records without the field that `--vectors` names."""
    return errors.InputFileError(
        f"None of the first records of {file.name} has a list in the field that --vectors names. "
        f"Fields: {', '.join(names)}. Nothing was loaded."
    )
