"""Parse one level of JSON and keep the spelling of what is below it.

A parsed number has lost digits; its text has not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from json import JSONDecodeError
from typing import Any, Final

# The decoder of a string; the types of the standard library leave it out.
_scan_string: Final = json.decoder.scanstring  # type: ignore[attr-defined]

_SPACE: Final = re.compile(r"[ \t\n\r]*")


class RepeatedNameError(JSONDecodeError):
    """An object has one name twice, of which most parsers keep the last."""


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedError(next(name for name in names if names.count(name) > 1))
    return value


class _RepeatedError(ValueError): ...


# A float is enough here, and unlike an int it has no limit of 4,300 digits.
_decode: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_int=float).raw_decode


def value(text: str, start: int) -> tuple[Any, int]:
    """Parse the value at `start`; return it and its end.

    Raises:
        JSONDecodeError: it is no JSON.
        RepeatedNameError: an object in it has a name twice.
        RecursionError: it is nested too deeply.
    """
    try:
        return _decode(text, start)
    except _RepeatedError as error:
        raise RepeatedNameError(f"has the name {error.args[0]!r} twice", text, start) from None


def skip(text: str, position: int) -> int:
    """Return the position of the next character that is no white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


def members(text: str, start: int) -> tuple[list[tuple[str, Any, str]], int]:
    """Return the members of the object at `start`, as (name, value, spelling), and its end."""
    found: list[tuple[str, Any, str]] = []
    position = skip(text, start + 1)
    if text[position : position + 1] == "}":
        return found, position + 1
    while True:
        name, position = _name(text, position)
        parsed, end = value(text, position)
        found.append((name, parsed, text[position:end]))
        position, closed = _next(text, end, "}")
        if closed:
            return found, position


def elements(text: str) -> list[str]:
    """Return the spellings of the elements of a list.

    Raises:
        JSONDecodeError: the text is no list.
    """
    found: list[str] = []
    position, closed = skip(text, 1), False
    if text[:1] != "[":
        raise JSONDecodeError("Expecting '['", text, 0)
    if text[position : position + 1] == "]":
        position, closed = position + 1, True
    while not closed:
        _, end = value(text, position)
        found.append(text[position:end])
        position, closed = _next(text, end, "]")
    if skip(text, position) < len(text):
        raise JSONDecodeError("Extra data", text, position)
    return found


def _name(text: str, position: int) -> tuple[str, int]:
    """Return the name of a member, and the position of its value."""
    if text[position : position + 1] != '"':
        raise JSONDecodeError("Expecting a name in double quotes", text, position)
    name, position = _scan_string(text, position + 1, True)  # noqa: FBT003  positional only
    position = skip(text, position)
    if text[position : position + 1] != ":":
        raise JSONDecodeError("Expecting ':'", text, position)
    return name, skip(text, position + 1)


def _next(text: str, position: int, closing: str) -> tuple[int, bool]:
    """Return the position after a comma or the closing bracket, and whether it was the latter."""
    position = skip(text, position)
    character = text[position : position + 1]
    if character == closing:
        return position + 1, True
    if character != ",":
        raise JSONDecodeError(f"Expecting ',' or '{closing}'", text, position)
    return skip(text, position + 1), False
