"""Read a file as a stream of records, with the dialect that it is written in."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from backline import errors
from backline.loading import parquet_reader
from backline.loading.cells import Record
from backline.loading.csv_reader import read_csv
from backline.loading.dialect import Dialect, detect
from backline.loading.json_reader import read_json
from backline.loading.source import Progress, Source, open_source

__all__ = ["InputFile", "Record", "open_file"]


@dataclass(frozen=True)
class InputFile:
    """A file of records, which can be read again."""

    source: Source
    dialect: Dialect

    @property
    def name(self) -> str:
        return self.source.name

    @cached_property
    def types(self) -> dict[str, str]:
        """The SQL types of the columns, of a file that has types."""
        if self.dialect.format != "parquet":
            return {}
        return parquet_reader.sql_types(self.source, self.source.path)

    def records(self, progress: Progress | None = None) -> Iterator[Record]:
        """Yield the records. Memory does not grow with the length of the file.

        Raises:
            InputFileError: the file is malformed, or changed while it was read.
        """
        if self.dialect.format == "parquet":
            yield from parquet_reader.read_parquet(self.source, self.source.path, progress)
        else:
            yield from self._read_text(progress)
        self.source.require_unchanged()

    def _read_text(self, progress: Progress | None) -> Iterator[Record]:
        last = 0
        with self.source.opened(progress) as stream:
            text = io.TextIOWrapper(stream, encoding=self.dialect.encoding, newline="")
            reader = read_json(self.name, text) if self._is_json else self._read_csv(text)
            try:
                for record in reader:
                    last = record.line
                    yield record
            except UnicodeError as error:
                raise errors.InputFileError(
                    f"{self.name} is not {self.dialect.encoding} after line {last}: {error}. "
                    "Nothing was loaded; name its encoding with --encoding."
                ) from None

    @property
    def _is_json(self) -> bool:
        return self.dialect.format == "json"

    def _read_csv(self, text: io.TextIOWrapper) -> Iterator[Record]:
        return read_csv(self.name, text, self.dialect)

    def place(self, number: int) -> str:
        """Return the place of a record by its number, for a message."""
        for count, record in enumerate(self.records(), start=1):
            if count == number:
                return f"{'record' if self.dialect.format == 'parquet' else 'line'} {record.line}"
        return f"record {number}"


@contextmanager
def open_file(file: Path, dialect: Dialect) -> Iterator[InputFile]:
    """Yield a file with its dialect. `-` is standard input.

    Raises:
        InputFileError: the file is missing, cannot be read, or its dialect cannot be told.
        UsageError: the dialect has a value that no file can have.
    """
    dialect.check()
    with open_source(file, dialect.compression) as source:
        detected = detect(source, dialect)
        if detected.format == "parquet" and source.compression != "none":
            with _decompressed(source) as plain:
                yield InputFile(plain, detected)
        else:
            yield InputFile(source, detected)


@contextmanager
def _decompressed(source: Source) -> Iterator[Source]:
    """Yield a decompressed copy: Parquet is read from its end."""
    with tempfile.TemporaryDirectory(prefix="backline-load-") as folder:
        copy = Path(folder, "copy")
        with source.opened() as stream, copy.open("wb") as target:
            shutil.copyfileobj(stream, target)
        status = copy.stat()
        yield replace(
            source,
            path=copy,
            status=(status.st_size, status.st_mtime_ns),
            compression="none",
        )
