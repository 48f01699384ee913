"""Read JSON: one object after another, as in JSONL, or one list of objects."""

from __future__ import annotations

from collections.abc import Iterator
from json import JSONDecodeError
from typing import Final, TextIO

from backline import errors
from backline.loading import json_text
from backline.loading.cells import Cell, Literal, Record

_CHUNK: Final = 1 << 16
_LONGEST_RECORD: Final = 256 << 20
"""Characters. Broken JSON may have no end."""

_MARGIN: Final = 16
"""A token that the end of the buffer cuts off is refused within so many characters of it."""


def read_json(name: str, text: TextIO) -> Iterator[Record]:
    """Yield the objects of a file, with their values as the file spells them.

    Raises:
        InputFileError: the file is no JSON, or a record is no object. The message names the line.
    """
    window = _Window(name, text)
    if window.peek() != "[":
        while window.peek():
            yield window.record()
        return
    window.take()
    if window.peek() != "]":
        yield window.record()
    while window.peek() == ",":
        window.take()
        yield window.record()
    if window.peek() != "]":
        raise window.error("expected ',' or ']' after a record")
    window.take()
    if window.peek():
        raise window.error("the file goes on after the end of its list")


class _Window:
    """The part of the file that is being parsed."""

    def __init__(self, name: str, text: TextIO) -> None:
        self._name = name
        self._text = text
        self._buffer = ""
        self._position = 0
        self._line = 1
        self._counted = 0
        self._column = 0
        self._ended = False

    def peek(self) -> str:
        """Return the next character that is no white space, or an empty text at the end."""
        while True:
            self._position = json_text.skip(self._buffer, self._position)
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._more():
                return ""

    def take(self) -> None:
        self._position += 1

    def record(self) -> Record:
        """Parse the next value, which must be an object."""
        first = self.peek()
        line = self._place(self._position)[0]
        if first != "{":
            raise self._no_object()
        while True:
            try:
                found, end = json_text.members(self._buffer, self._position)
                break
            except JSONDecodeError as error:
                if not self._is_cut_off(error):
                    raise self._not_json(error) from None
                self._more()  # also at the end: the positions change
            except RecursionError:
                raise self._too_deep() from None
        record = self._record(line, found)
        self._position = end
        return record

    def _record(self, line: int, found: list[tuple[str, object, str]]) -> Record:
        cells: dict[str, Cell] = {}
        for name, value, spelling in found:
            key = name.strip()
            if key in cells:
                raise self.error(f"the record has the name {key!r} twice", "rename one of them")
            if isinstance(value, str) or value is None:
                cells[key] = value
            else:
                cells[key] = Literal(spelling)
        if not cells:
            raise self._no_object()
        return Record(line, cells)

    def _more(self) -> bool:
        """Read on; drop what was parsed. A longer record is read in longer pieces."""
        if self._ended:
            return False
        self._place(self._position)
        self._buffer = self._buffer[self._position :]
        self._counted -= self._position
        self._position = 0
        if len(self._buffer) > _LONGEST_RECORD:
            raise self.error("the record is longer than 256 million characters")
        chunk = self._text.read(max(_CHUNK, len(self._buffer)))
        self._ended = not chunk
        self._buffer += chunk
        return bool(chunk)

    def _is_cut_off(self, error: JSONDecodeError) -> bool:
        at_end = error.pos >= len(self._buffer) - _MARGIN
        return not self._ended and (at_end or error.msg.startswith("Unterminated string"))

    def _place(self, position: int) -> tuple[int, int]:
        """Return line and column of a position in the buffer, which may not be before the last."""
        between = self._buffer.count("\n", self._counted, position)
        if between:
            self._line += between
            self._column = position - self._buffer.rfind("\n", 0, position) - 1
        else:
            self._column += position - self._counted
        self._counted = position
        return self._line, self._column + 1

    def error(
        self, problem: str, remedy: str = "correct it", position: int | None = None
    ) -> errors.InputFileError:
        """Return the error for the present position."""
        line, column = self._place(self._position if position is None else position)
        return errors.InputFileError(
            f"{self._name}, line {line}, column {column}: {problem}. Nothing was loaded; {remedy}."
        )

    def _not_json(self, error: JSONDecodeError) -> errors.InputFileError:
        if isinstance(error, json_text.RepeatedNameError):
            return self.error(f"the value {error.msg}", "rename one of them", error.pos)
        line, column = self._place(error.pos)
        return errors.InputFileError(
            f"{self._name}, line {line} is not JSON: {error.msg} at column {column}. "
            "Nothing was loaded; correct the line."
        )

    def _no_object(self) -> errors.InputFileError:
        try:
            json_text.value(self._buffer, self._position)
        except JSONDecodeError as error:
            if not self._is_cut_off(error):
                return self._not_json(error)
            self._more()
            return self._no_object()
        except RecursionError:
            return self._too_deep()
        line, _ = self._place(self._position)
        return errors.InputFileError(
            f"{self._name}, line {line} is not a JSON object with fields. Nothing was loaded."
        )

    def _too_deep(self) -> errors.InputFileError:
        return self.error("the value is nested too deeply to be parsed", "flatten it")
