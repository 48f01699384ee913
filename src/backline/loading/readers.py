"""Read JSONL, CSV and Parquet files as streams of records."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from backline import errors, extras

Record: TypeAlias = Mapping[str, Any]

_PARQUET_BATCH: Final = 1000


def read(file: Path) -> Iterator[Record]:
    """Yield the records of a file. Memory does not grow with the length of the file.

    Raises:
        InputFileError: the file is missing, malformed, or of an unsupported kind.
    """
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise errors.InputFileError(
            f"{file} is of an unsupported kind. Supported: {', '.join(_READERS)}."
        )
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
    return f"{file}, line {number} is not JSON: {error}. Nothing was loaded; correct the line."


def _read_csv(file: Path) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)  # the default limit of 128 KB rejects long texts
    with file.open(newline="", encoding="utf-8-sig") as text:
        reader = csv.DictReader(text)
        try:
            for row in reader:
                _require_all_fields(file, reader, row)
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


def _require_all_fields(file: Path, reader: csv.DictReader[str], row: dict[str, Any]) -> None:
    """Raise InputFileError for a row with more or fewer fields than the header."""
    if None in row or None in row.values():
        raise errors.InputFileError(
            f"{file}, line {reader.line_num} has another number of fields than the "
            f"header ({len(reader.fieldnames or [])}). Nothing was loaded."
        )


def _csv_value(value: str) -> Any:
    """Convert integers and decimal numbers; an empty field is NULL."""
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
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=_PARQUET_BATCH):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise errors.InputFileError(f"{file} is not readable as Parquet: {error}.") from None


_READERS: Final[dict[str, Callable[[Path], Iterator[Record]]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
