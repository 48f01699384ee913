"""Loads JSONL, CSV and Parquet into a table: streamed, typed, and all of it or nothing.

Records go by COPY into a temporary table and from there, in the same transaction, into the table:
new keys are inserted, changed rows updated, equal rows left alone, so that a second load of the
same file touches nothing and re-embeds nothing.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import sql

from backline import errors, extras
from backline.postgres.connector import Transaction
from backline.postgres.store import Store

Record: TypeAlias = Mapping[str, Any]

SAMPLE: Final = 1000
KEY_NAMES: Final = ("id", "_id", "key", "uuid")
_IDENTITY: Final = "id"
_LONGEST_NAME: Final = 63  # bytes of an identifier; Postgres cuts longer ones off without a word


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load did; `unchanged` records were in the table already, just so."""

    table: str
    created: bool
    records: int
    inserted: int
    updated: int

    @property
    def unchanged(self) -> int:
        return self.records - self.inserted - self.updated


async def load(store: Store, file: Path, table: str, *, key: str | None = None) -> Loaded:
    """Load a file into `table`, which is made where it does not exist.

    Args:
        store: the database.
        file: .jsonl or .ndjson (one object a line), .csv (with a header) or .parquet.
        table: `name` or `schema.name`.
        key: the column that tells records apart; default: the table's primary key, or `id`, `_id`,
            `key` or `uuid` of the file, or a new identity column.

    Raises:
        InputFileError: the file is missing, malformed, or does not fit the table; the message
            gives the line. Nothing was loaded then.

    """
    records = read(file)
    sample = list(itertools.islice(records, SAMPLE))
    if not sample:
        raise errors.InputFileError(f"{file} holds no records.")
    async with store.connector.transaction() as transaction:
        await transaction.execute("set local lock_timeout = '10s'")
        name = await _parsed(transaction, table)
        target = await _target(transaction, name)
        created = target is None
        if target is None:
            target = await _create(transaction, file, name, sample, key)
        columns = _fields(sample, target)
        if key is not None and key not in columns:
            raise _no_key(key, columns)
        count = await _copy(transaction, file, target, columns, itertools.chain(sample, records))
        inserted, updated = await _merge(transaction, file, target, columns, key)
    return Loaded(str(target), created, count, inserted, updated)


# --- files --------------------------------------------------------------------------------------


def read(file: Path) -> Iterator[Record]:
    """The records of a file, one after another; memory does not grow with its length."""
    readers = {
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise errors.InputFileError(f"{file} is of no known kind. Known: {', '.join(readers)}.")
    if not file.is_file():
        raise errors.InputFileError(f"There is no file {file}.")
    return reader(file)


def _read_jsonl(file: Path) -> Iterator[Record]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parse_line(file, number, line)


def _parse_line(file: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except ValueError as error:
        raise errors.InputFileError(_not_json(file, number, line, error)) from None
    if not isinstance(record, dict) or not record:
        raise errors.InputFileError(
            f"{file}, line {number} is not a JSON object with fields. Nothing was loaded."
        )
    return record


def _not_json(file: Path, number: int, line: bytes, error: ValueError) -> str:
    if number == 1 and line.lstrip().startswith(b"["):
        return (
            f"{file} is one JSON array; it must be one object a line. Nothing was loaded. "
            f"Convert it: jq -c '.[]' {file} > {file.stem}.ndjson"
        )
    if isinstance(error, UnicodeDecodeError):
        return f"{file}, line {number} is not UTF-8: {error}. Nothing was loaded; save it as UTF-8."
    return f"{file}, line {number} is not JSON: {error}. Nothing was loaded; mend the line."


def _read_csv(file: Path) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)  # a long text is no reason to refuse a file
    with file.open(newline="", encoding="utf-8-sig") as text:
        reader = csv.DictReader(text)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise errors.InputFileError(
                        f"{file}, line {reader.line_num} has another number of fields than the "
                        f"header ({len(reader.fieldnames or [])}). Nothing was loaded."
                    )
                yield {name: _csv_value(value) for name, value in row.items()}
        except UnicodeDecodeError as error:
            raise errors.InputFileError(
                f"{file} is not UTF-8 after line {reader.line_num}: {error}. Nothing was loaded; "
                "save it as UTF-8."
            ) from None
        except csv.Error as error:
            raise errors.InputFileError(
                f"{file}, line {reader.line_num}: {error}. Nothing was loaded."
            ) from None


def _csv_value(value: str) -> Any:
    """A field as what it plainly is; an empty one is NULL."""
    if value == "":
        return None
    if re.fullmatch(r"-?(0|[1-9]\d{0,17})", value):
        return int(value)
    if re.fullmatch(r"-?\d+\.\d+([eE][+-]?\d+)?", value):
        return float(value)
    return value


def _read_parquet(file: Path) -> Iterator[Record]:
    extras.require("parquet")
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=1000):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise errors.InputFileError(f"{file} is not readable as Parquet: {error}.") from None


# --- table --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Table:
    """A table with its columns' types; `key` is its single-column primary key, if it has one."""

    schema: str
    name: str
    columns: dict[str, str]
    key: str | None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


async def _parsed(transaction: Transaction, table: str) -> list[str]:
    """The parts of a table's name, read as SQL reads it: folded to lower case unless quoted."""
    try:
        [row] = await transaction.fetch("select parse_ident(%s) as parts", [table])
    except psycopg.DataError:
        raise errors.UsageError(
            f"{table!r} is no name of a table. Write name or schema.name; other characters than "
            "letters, digits and _ need double quotes inside the shell's: '\"my-table\"'."
        ) from None
    parts: list[str] = row["parts"]
    if len(parts) > 2:
        raise errors.UsageError(f"{table!r} has too many parts. Write name or schema.name.")
    return parts


async def _target(transaction: Transaction, name: Sequence[str]) -> _Table | None:
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
    return _Table(
        rows[0]["schema"], rows[0]["name"], {row["column"]: row["type"] for row in rows}, key
    )


async def _create(
    transaction: Transaction,
    file: Path,
    name: Sequence[str],
    sample: Sequence[Record],
    key: str | None,
) -> _Table:
    """Make a table for the sample's fields, with a primary key."""
    names = list(dict.fromkeys(field for record in sample for field in record))
    _refuse_bad_names(file, names)
    if key is not None and key not in names:
        raise _no_key(key, names)
    chosen = key or next((name for name in KEY_NAMES if name in names), None)
    columns = {field: _sql_type(record.get(field) for record in sample) for field in names}
    lines = [sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(t)) for n, t in columns.items()]
    if chosen is None:
        lines.insert(
            0,
            sql.SQL("{} bigint generated by default as identity").format(sql.Identifier(_IDENTITY)),
        )
    lines.append(sql.SQL("primary key ({})").format(sql.Identifier(chosen or _IDENTITY)))
    statement = sql.SQL("create table {} ({})").format(
        sql.Identifier(*name), sql.SQL(", ").join(lines)
    )
    try:
        await transaction.execute(statement)
    except psycopg.errors.InvalidSchemaName:
        raise errors.TableNotFoundError(
            f"There is no schema {name[0]!r} to make the table in. "
            f"Make it first: create schema {name[0]};"
        ) from None
    made = await _target(transaction, name)
    if made is None:
        raise errors.TableNotFoundError(
            f"The table {name[-1]!r} was made outside the search path. Write it as schema.name."
        )
    return made


def _no_key(key: str, names: Sequence[str]) -> errors.KeyMissingError:
    return errors.KeyMissingError(
        f"The records have no field {key!r} to be the key. Fields: {', '.join(names)}."
    )


def _refuse_bad_names(file: Path, names: Sequence[str]) -> None:
    for name in names:
        if not name or "\0" in name or len(name.encode()) > _LONGEST_NAME:
            raise errors.InputFileError(
                f"{file} has the field {name[:80]!r}, which cannot be the name of a column: it "
                f"must have 1 to {_LONGEST_NAME} bytes. Nothing was loaded; rename the field."
            )


def _sql_type(values: Iterable[Any]) -> str:
    """The narrowest type that holds all the values."""
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


def _fields(sample: Sequence[Record], target: _Table) -> list[str]:
    names = list(dict.fromkeys(name for record in sample for name in record))
    unknown = [name for name in names if name not in target.columns]
    if unknown:
        raise errors.InputFileError(
            f"The table {target} has no column {', '.join(map(repr, unknown))}. "
            f"Its columns: {', '.join(target.columns)}. Nothing was loaded."
        )
    return names


# --- copy and merge -----------------------------------------------------------------------------


async def _copy(
    transaction: Transaction,
    file: Path,
    target: _Table,
    columns: list[str],
    records: Iterable[Record],
) -> int:
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    await transaction.execute(
        sql.SQL(
            "create temporary table backline_load on commit drop as select {} from {} with no data"
        ).format(listed, target.identifier)
    )
    copy = sql.SQL("copy pg_temp.backline_load ({}) from stdin").format(listed)
    try:
        return await transaction.copy_rows(copy, _rows(file, target, columns, records), ())
    except psycopg.DataError as error:
        raise _misfit(file, target, error) from None


def _misfit(file: Path, target: _Table, error: psycopg.Error) -> errors.InputFileError:
    """What Postgres did not take, with the record and the column where it names them."""
    context = error.diag.context or ""
    found = re.search(r"line (\d+)(?:, column ([^:]+))?", context)
    place = f"record {found[1]}" if found else context
    if found and found[2]:
        place += f", field {found[2]!r}"
    said = str(error.diag.message_primary)
    if isinstance(error, psycopg.errors.UniqueViolation | psycopg.errors.ForeignKeyViolation):
        said += f". {error.diag.message_detail}"  # which key; of other kinds, the whole row
    return errors.InputFileError(
        f"{file}{', ' if place else ''}{place} does not fit the table {target}: "
        f"{said.rstrip('.')}. Nothing was loaded."
    )


async def _rows(
    file: Path, target: _Table, columns: list[str], records: Iterable[Record]
) -> AsyncIterator[list[Any]]:
    known = set(columns)
    as_json = {name for name in columns if target.columns[name] in ("json", "jsonb")}
    for number, record in enumerate(records, start=1):
        if not record.keys() <= known:
            extra = ", ".join(repr(name) for name in record if name not in known)
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
    if isinstance(value, str) and not _storable(value, as_json=as_json):
        raise errors.InputFileError(
            f"{file}, record {number}, field {name!r} holds a NUL or half a surrogate pair, which "
            "Postgres cannot store as text. Nothing was loaded; remove the character."
        )
    return value


def _storable(text: str, *, as_json: bool) -> bool:
    if "\0" in text or (as_json and "\\u0000" in text):
        return False
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


async def _merge(
    transaction: Transaction, file: Path, target: _Table, columns: list[str], key: str | None
) -> tuple[int, int]:
    """Move the loaded records into the table; answers with how many were new, how many changed."""
    by = key or target.key
    try:
        if by is None or by not in columns:
            return await _append(transaction, target, columns), 0
        await _refuse_bad_keys(transaction, file, by)
        return await _upsert(transaction, target, columns, by)
    except psycopg.IntegrityError as error:  # NOT NULL, CHECK, UNIQUE or FOREIGN KEY
        raise _misfit(file, target, error) from None


async def _upsert(
    transaction: Transaction, target: _Table, columns: list[str], by: str
) -> tuple[int, int]:
    names = {
        "t": target.identifier,
        "key": sql.Identifier(by),
        "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
    }
    others = [sql.Identifier(name) for name in columns if name != by]
    updated = 0
    if others:
        names["set"] = sql.SQL(", ").join(sql.SQL("{0} = l.{0}").format(n) for n in others)
        names["old"] = sql.SQL(", ").join(sql.SQL("t.{}").format(n) for n in others)
        names["new"] = sql.SQL(", ").join(sql.SQL("l.{}").format(n) for n in others)
        updated = await transaction.execute(
            sql.SQL(
                "update {t} t set {set} from pg_temp.backline_load l "
                "where t.{key} = l.{key} and ({old}) is distinct from ({new})"
            ).format(**names)
        )
    inserted = await transaction.execute(
        sql.SQL(
            "insert into {t} ({columns}) select {columns} from pg_temp.backline_load l "
            "where not exists (select from {t} t where t.{key} = l.{key})"
        ).format(**names)
    )
    return inserted, updated


async def _append(transaction: Transaction, target: _Table, columns: list[str]) -> int:
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    return await transaction.execute(
        sql.SQL("insert into {} ({}) select {} from pg_temp.backline_load").format(
            target.identifier, listed, listed
        )
    )


async def _refuse_bad_keys(transaction: Transaction, file: Path, key: str) -> None:
    """Every record must have a key, and no two the same one."""
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
