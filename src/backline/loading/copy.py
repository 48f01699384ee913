"""Copy records into a temporary table."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from backline import errors
from backline.loading.cells import Cell, Record, copy_text, list_length
from backline.loading.readers import InputFile
from backline.loading.table import Table
from backline.postgres.connector import Transaction

SAMPLE: Final = 1000
"""Records that decide the columns of the load. Later records may not add a field."""

NUMBER: Final = "backline_record"
"""The column of the temporary table that numbers the records."""

# A value or a row that Postgres refuses: its data, a constraint, a limit, or a trigger's exception.
REFUSED: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    psycopg.errors.RaiseException,
)


async def copy_records(
    transaction: Transaction,
    file: InputFile,
    target: Table,
    columns: Mapping[str, str],
    records: Iterable[Record],
    vectors: str | None = None,
) -> int:
    """Copy the records into the temporary table `backline_load`; return how many there were.

    Args:
        transaction: of the load.
        file: the file, for messages.
        target: the table whose types the columns have.
        columns: the column of each field.
        records: of the file.
        vectors: the column that must hold lists of one length, if any.

    Raises:
        InputFileError: a record has a field outside `columns`, or a value of the wrong type.
    """
    names = names_of(list(columns.values()))
    await transaction.execute(
        sql.SQL(
            "create temporary table backline_load on commit drop as "
            "select 0::bigint as {}, {} from {} with no data"
        ).format(sql.Identifier(NUMBER), names, target.identifier)
    )
    statement = sql.SQL("copy pg_temp.backline_load ({}, {}) from stdin").format(
        sql.Identifier(NUMBER), names
    )
    rows = _Rows(file, target, columns, vectors)
    try:
        return await transaction.copy_rows(statement, rows.of(records), ())
    except REFUSED as error:
        raise does_not_fit(file, target, error) from None


def names_of(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def does_not_fit(
    file: InputFile, target: Table, error: psycopg.Error, number: int | None = None
) -> errors.InputFileError:
    """Return the error for a rejected record, with its place and the field if it is known.

    Args:
        file: the file.
        target: the table.
        error: of Postgres. That of COPY names the number of the record, in any language.
        number: of the record, if it is not in the error.

    """
    match = re.search(r"backline_load\D+(\d+)(?:, \S+ ([^:]+))?", error.diag.context or "")
    if number is None and match:
        number = int(match[1])
    place = f", {file.place(number)}" if number else ""
    column = (match[2] if match else None) or error.diag.column_name
    place += f", field {column!r}," if column else ""
    message = str(error.diag.message_primary).rstrip(".")
    if not isinstance(error, psycopg.errors.NotNullViolation | psycopg.errors.CheckViolation):
        # The detail of these two holds the whole row.
        message += f". {error.diag.message_detail}" if error.diag.message_detail else ""
    return errors.InputFileError(
        f"{file.name}{place} does not fit the table {target}: {message.rstrip('.')}. "
        "Correct the record, or the column's type. Nothing was loaded."
    )


class _Rows:
    """The records as rows of the temporary table."""

    def __init__(
        self, file: InputFile, target: Table, columns: Mapping[str, str], vectors: str | None
    ) -> None:
        self._file = file
        self._columns = columns
        self._kinds = [(field, target.columns[name].kind) for field, name in columns.items()]
        self._vectors = next((f for f, name in columns.items() if name == vectors), None)
        self._dimensions: int | None = None

    async def of(self, records: Iterable[Record]) -> AsyncIterator[list[Any]]:
        for number, record in enumerate(records, start=1):
            if not record.cells.keys() <= self._columns.keys():
                raise self._other_field(record)
            if self._vectors is not None:
                self._check_vector(record, record.cells.get(self._vectors))
            row: list[Any] = [number]
            for field, kind in self._kinds:
                text = copy_text(record.cells.get(field), kind)
                if text is not None and not _is_storable(text):
                    raise self._not_storable(record, field)
                row.append(text)
            yield row

    def _other_field(self, record: Record) -> errors.InputFileError:
        extra = ", ".join(repr(name) for name in record.cells if name not in self._columns)
        return errors.InputFileError(
            f"{self._place(record)} has the field {extra}, which none of the first {SAMPLE} "
            "records has. Nothing was loaded; add it to an earlier record, or leave it out."
        )

    def _not_storable(self, record: Record, field: str) -> errors.InputFileError:
        return errors.InputFileError(
            f"{self._place(record)}, field {field!r} holds a NUL or half a surrogate pair, which "
            "Postgres cannot store as text. Nothing was loaded; remove the character."
        )

    def _check_vector(self, record: Record, cell: Cell) -> None:
        """Raise InputFileError for a vector of another length than the ones before it."""
        length = list_length(cell) if cell is not None else self._dimensions
        if self._dimensions is None:
            self._dimensions = length
        if length != self._dimensions or (cell is not None and not length):
            held = "no list" if not length else f"a list of {length} numbers"
            raise errors.InputFileError(
                f"{self._place(record)}, field {self._vectors!r} holds {held}; a vector of "
                f"{self._dimensions or 'some'} numbers is needed. Nothing was loaded."
            )

    def _place(self, record: Record) -> str:
        unit = "record" if self._file.dialect.format == "parquet" else "line"
        return f"{self._file.name}, {unit} {record.line}"


def _is_storable(text: str) -> bool:
    if "\0" in text:
        return False
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)
