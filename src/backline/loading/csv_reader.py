"""Read CSV strictly: a field stays the text that it is, and no row is taken apart by guesses."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, TextIO

from backline import errors
from backline.loading.cells import Cell, Field, Record
from backline.loading.dialect import Dialect

_LONGEST_FIELD: Final = 256 << 20
"""Characters. A quote that is never closed takes the rest of the file into one field."""


def read_csv(name: str, text: TextIO, dialect: Dialect) -> Iterator[Record]:
    """Yield the records of a CSV file with a header.

    An empty field is NULL, and one in quotes is an empty text. Blank lines are no records.

    Raises:
        InputFileError: the file breaks the rules of CSV. The message names line and column.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    rows = _Rows(name, text, dialect)
    header: list[str] = []
    for line, row in rows:
        if not header:
            header = _header(name, line, row)
            continue
        if len(row) != len(header):
            raise errors.InputFileError(_other_number(name, line, row, header, dialect))
        yield Record(line, dict(zip(header, rows.cells(row), strict=True)))


class _Rows:
    """The rows of a file with the number of their first line."""

    def __init__(self, name: str, text: TextIO, dialect: Dialect) -> None:
        self._name = name
        self._text = text
        self._lines: list[str] = []
        self._quote = dialect.quote or ""
        self._options: dict[str, Any] = {"delimiter": dialect.delimiter, "strict": True}
        if self._quote:
            self._options["quotechar"] = self._quote
        else:
            self._options["quoting"] = csv.QUOTE_NONE
        self._field = _field_pattern(dialect.delimiter or ",", self._quote)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(self._remembered(), **self._options)
        while True:
            line = reader.line_num + 1
            self._lines.clear()
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise self._malformed(line, str(error)) from None
            if row is None:
                return
            if row:
                yield line, row

    def _remembered(self) -> Iterator[str]:
        for line in self._text:
            self._lines.append(line)
            yield line

    def cells(self, row: Sequence[str]) -> Iterator[Cell]:
        """Return the fields of the present row; an empty one is NULL unless it is in quotes."""
        quoted = self._empty_quoted() if "" in row else ()
        return (Field(v) if v or i in quoted else None for i, v in enumerate(row))

    def _empty_quoted(self) -> set[int]:
        """Return the positions of the fields that are a pair of quotes. The csv module hides it."""
        text = "".join(self._lines)
        pair = self._quote * 2
        if not pair or pair not in text:
            return set()
        return {i for i, m in enumerate(self._field.finditer(text)) if m[1] == pair}

    def _malformed(self, line: int, problem: str) -> errors.InputFileError:
        """Return the error for a row that the csv module refuses."""
        fields = self._field.finditer("".join(self._lines))
        broken = (i for i, m in enumerate(fields, start=1) if (m[2] or "").startswith(self._quote))
        column = next(broken, 1)
        if "unexpected end" in problem or "field larger" in problem:
            problem = "a quote is opened and never closed"
        elif "expected after" in problem:
            problem = "text follows a closing quote; a quote inside quotes is written twice"
        return errors.InputFileError(
            f"{self._name}, line {line}, column {column}: {problem}. Nothing was loaded; "
            f"correct the line, or name another quote: --quote none."
        )


def _field_pattern(delimiter: str, quote: str) -> re.Pattern[str]:
    """Return the pattern of a field, with a group for one in quotes and one for another."""
    d, q = re.escape(delimiter), re.escape(quote)
    quoted = rf"{q}[^{q}]*(?:{q}{q}[^{q}]*)*{q}(?=[{d}\r\n]|\Z)" if quote else r"(?!)"
    return re.compile(rf"(?:\A|{d})(?:({quoted})|([^{d}\r\n]*))")


def _header(name: str, line: int, row: Sequence[str]) -> list[str]:
    """Return the names of the columns.

    Raises:
        InputFileError: a column has no name, or the name of another.
    """
    names = [column.strip() for column in row]
    for number, column in enumerate(names, start=1):
        first = names.index(column) + 1
        if not column or first < number:
            problem = f"has the name of column {first}, {column!r}" if column else "has no name"
            raise errors.InputFileError(
                f"{name}, line {line}, column {number} {problem}. Nothing was loaded; "
                "give each column a name of its own."
            )
    return names


def _other_number(
    name: str, line: int, row: Sequence[str], header: Sequence[str], dialect: Dialect
) -> str:
    return (
        f"{name}, line {line} has another number of fields ({len(row)}) than the header "
        f"({len(header)}), separated by {dialect.delimiter!r}. Nothing was loaded; put a field "
        "that holds the delimiter in quotes, or name another delimiter with --delimiter."
    )
