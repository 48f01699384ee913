"""Read Parquet with the types of its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from backline import errors, extras
from backline.loading.cells import Cell, Literal, Record
from backline.loading.source import Progress, Source

_BATCH: Final = 1000
_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def read_parquet(source: Source, path: Path, progress: Progress | None) -> Iterator[Record]:
    """Yield the records of a Parquet file.

    Raises:
        InputFileError: the file is no Parquet, names a column twice, or holds a value that cannot
            be read.
        MissingExtraError: pyarrow is not installed.
    """
    number = 0
    with _opened(source, path) as file:
        total = max(1, file.metadata.num_rows)
        for batch in file.iter_batches(batch_size=_BATCH):
            names = [name.strip() for name in batch.schema.names]
            fields = zip(batch.schema, batch.columns, strict=True)
            columns = [list(_cells(source.name, field, array)) for field, array in fields]
            for cells in zip(*columns, strict=True):
                number += 1
                yield Record(number, dict(zip(names, cells, strict=True)))
            if progress is not None:
                progress(source.size * number // total, source.size)


def sql_types(source: Source, path: Path) -> dict[str, str]:
    """Return the SQL type of each column, which holds all its values unchanged."""
    with _opened(source, path) as file:
        return {field.name.strip(): _sql_type(field.type) for field in file.schema_arrow}


@contextmanager
def _opened(source: Source, path: Path) -> Iterator[Any]:
    extras.require("parquet")
    import pyarrow
    from pyarrow import parquet

    with source.readable():
        try:
            with parquet.ParquetFile(path) as file:
                _require_distinct(source.name, file.schema_arrow.names)
                yield file
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            raise errors.InputFileError(
                f"{source.name} is not readable as Parquet: {error}. Nothing was loaded."
            ) from None


def _require_distinct(name: str, names: list[str]) -> None:
    stripped = [column.strip() for column in names]
    for column in stripped:
        if stripped.count(column) > 1:
            raise errors.InputFileError(
                f"{name} has the column {column!r} twice. Nothing was loaded; give each column a "
                "name of its own."
            )


def _cells(name: str, field: Any, array: Any) -> Iterator[Cell]:
    """Return the values of a column of a batch."""
    import pyarrow
    from pyarrow import types

    kind = field.type
    try:
        if types.is_timestamp(kind) and kind.tz is not None:
            array = array.cast(pyarrow.timestamp(kind.unit, "UTC"))
        values = array.cast(_readable_type(kind)).to_pylist()
    except (ValueError, NotImplementedError, OverflowError) as error:
        raise errors.InputFileError(
            f"{name}, column {field.name!r} of type {kind} cannot be read: {error}. "
            "Nothing was loaded; cast the column to text."
        ) from None
    if types.is_duration(kind):
        return (_interval(value, kind.unit) for value in values)
    if types.is_temporal(kind):
        return map(_moment, values)
    if types.is_floating(kind) and kind.bit_width < 64:
        return (None if value is None else Literal(value) for value in values)
    return map(_cell, values)


def _readable_type(kind: Any) -> Any:
    """Return the type that Python reads without a loss: text for temporal ones and real."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(kind):
        return _readable_type(kind.value_type)
    if types.is_duration(kind):
        return pa.int64()
    if types.is_temporal(kind) or (types.is_floating(kind) and kind.bit_width < 64):
        return pa.string()
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(_nested_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_nested_type(field.type)) for field in kind])
    return kind


def _nested_type(kind: Any) -> Any:
    """Return the type inside a list or a struct, where JSON needs numbers to stay numbers."""
    from pyarrow import types

    return kind if types.is_floating(kind) else _readable_type(kind)


def _interval(value: int | None, unit: str) -> str | None:
    if value is None:
        return None
    return f"{value / 1000!r} microseconds" if unit == "ns" else f"{value} {_UNITS[unit]}"


def _moment(text: str | None) -> str | None:
    """Return a date or time as Postgres reads it: the year 0 of ISO 8601 is 1 BC."""
    if text is None or not text.startswith(("-", "0000-")):
        return text
    year, rest = text[1:].split("-", 1) if text[0] == "-" else text.split("-", 1)
    return f"{int(year) + 1:04d}-{rest} BC"


def _cell(value: Any) -> Cell:
    if isinstance(value, bool):
        return Literal("true" if value else "false")
    if isinstance(value, int | float):
        return Literal(repr(value))
    if isinstance(value, list | dict):
        return Literal(json.dumps(value, ensure_ascii=False, default=_cell))
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return None if value is None else str(value)


def _sql_type(kind: Any) -> str:
    from pyarrow import types

    for test, name in (
        (types.is_boolean, "boolean"),
        (types.is_uint64, "numeric"),
        (types.is_integer, "bigint"),
        (types.is_float64, "double precision"),
        (types.is_floating, "real"),
        (types.is_decimal, "numeric"),
        (types.is_date, "date"),
        (types.is_time, "time"),
        (types.is_duration, "interval"),
        (types.is_binary, "bytea"),
        (types.is_large_binary, "bytea"),
        (types.is_fixed_size_binary, "bytea"),
        (types.is_nested, "jsonb"),
    ):
        if test(kind):
            return name
    if types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamptz"
    return "text"
