"""Values as a file spells them: the type of the column reads them, so that no digit is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

from backline.loading import json_text


class Field(str):
    """A field of a CSV file. It is empty only if the file has it in quotes."""

    __slots__ = ()


class Literal(str):
    """A JSON number, boolean, list or object, as the file spells it."""

    __slots__ = ()


Cell: TypeAlias = str | None
"""A `Field`, a `Literal`, a string value, or None for NULL."""


class Record(NamedTuple):
    """One record, with the number of its first line, or its own number in a binary file."""

    line: int
    cells: Mapping[str, Cell]


_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][+-]?[0-9]+)?")
_LONGEST_INTEGER: Final = 18
"""Digits that every bigint has room for."""


def sql_type(cells: Iterable[Cell]) -> str:
    """Return the narrowest SQL type that holds all the values unchanged."""
    kinds = {_kind(cell) for cell in cells if cell}
    if len(kinds) == 1:
        return kinds.pop()
    if kinds == {"bigint", "numeric"}:
        return "numeric"
    return "jsonb" if "jsonb" in kinds else "text"


def _kind(cell: str) -> str:
    if isinstance(cell, Literal):
        if cell[0] in "[{":
            return "jsonb"
        return "boolean" if cell in ("true", "false") else _number(cell) or "numeric"
    return (_number(cell) if isinstance(cell, Field) else None) or "text"


def _number(text: str) -> str | None:
    if _INTEGER.fullmatch(text):
        return "bigint" if len(text.lstrip("-")) <= _LONGEST_INTEGER else "numeric"
    return "numeric" if _DECIMAL.fullmatch(text) else None


def copy_text(cell: Cell, kind: str) -> str | None:
    """Return a value as COPY takes it.

    Args:
        cell: the value.
        kind: of the column: "json", "array", "text" for the types of text, "other".

    """
    if cell is None or (cell == "" and kind != "text" and isinstance(cell, Field)):
        return None
    if kind == "json" and not isinstance(cell, Field | Literal):
        return json.dumps(cell, ensure_ascii=False)
    if kind == "array" and cell.startswith("["):
        return _array(cell)
    return str(cell)


def _array(text: str) -> str:
    """Return a JSON list as an array of Postgres; other text as it is."""
    try:
        elements = json_text.elements(text)
    except json.JSONDecodeError:
        return text
    return "{" + ",".join(map(_element, elements)) + "}"


def _element(raw: str) -> str:
    if raw == "null":
        return "NULL"
    if raw.startswith("["):
        return _array(raw)
    text = json.loads(raw) if raw.startswith('"') else raw
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def list_length(cell: str) -> int | None:
    """Return the number of elements of a JSON list, or None for other text."""
    try:
        return len(json_text.elements(cell))
    except json.JSONDecodeError:
        return None
