"""Detect format, encoding and delimiter of a file; each can be given instead."""

from __future__ import annotations

import codecs
import csv
import io
import re
import string
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from backline import errors
from backline.loading.source import COMPRESSIONS, Source

FORMATS: Final = ("csv", "tsv", "json", "parquet")
_SUFFIXES: Final = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
_COMPRESSED: Final = (".gz", ".zst", ".zstd")
_DELIMITERS: Final = (",", ";", "\t", "|")
_CHUNK: Final = 1 << 20
_HEAD: Final = 1 << 16
_BYTE_ORDER_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LETTERS: Final = string.ascii_letters.encode()
_UNDEFINED: Final = frozenset("\udc81\udc8d\udc8f\udc90\udc9d")
"""Bytes without a character in Windows-1252, as `surrogateescape` decodes them."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file is written. None is detected.

    Attributes:
        format: "csv", "tsv", "json" (JSON and JSONL) or "parquet".
        delimiter: between the fields of a CSV file.
        quote: around a field of a CSV file; empty for none.
        encoding: of a text file, as Python names it.
        compression: "none", "gzip" or "zstd".

    """

    format: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    encoding: str | None = None
    compression: str | None = None

    def check(self) -> None:
        """Raise UsageError for a value that no file can have."""
        for name, value, choices in (
            ("format", self.format, FORMATS),
            ("compression", self.compression, COMPRESSIONS),
        ):
            if value is not None and value not in choices:
                raise errors.UsageError(f"{name} is {value!r}; use {', '.join(choices)}.")
        _check_characters(self.delimiter, self.quote)
        if self.encoding is not None:
            _check_encoding(self.encoding)

    def __str__(self) -> str:
        parts = ["CSV" if self.format == "tsv" else str(self.format).upper()]
        if self.delimiter is not None:
            parts.append("tab" if self.delimiter == "\t" else repr(self.delimiter))
        parts += [self.encoding] if self.encoding else []
        return ", ".join(parts + [str(self.compression)] * (self.compression != "none"))


DETECT: Final = Dialect()


def _check_characters(delimiter: str | None, quote: str | None) -> None:
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n" '):
        raise errors.UsageError(
            f"The delimiter is {delimiter!r}; it must be one character, as ';' or 'tab'."
        )
    if quote and (len(quote) != 1 or quote in "\r\n " or quote == delimiter):
        raise errors.UsageError(
            f"The quote is {quote!r}; it must be one character other than the delimiter, or none."
        )


def _check_encoding(encoding: str) -> None:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    except LookupError:
        raise errors.UsageError(
            f"There is no encoding {encoding!r}. Examples: utf-8, utf-16, windows-1252."
        ) from None


def detect(source: Source, dialect: Dialect) -> Dialect:
    """Return the dialect of a file, with every value that applies to its format.

    Raises:
        InputFileError: the format is not known, or the encoding cannot be told for certain.
    """
    kind = dialect.format or _format(source)
    dialect = replace(dialect, format=kind, compression=source.compression)
    if kind == "parquet":
        return dialect
    encoding = dialect.encoding or detect_encoding(source, kind)
    dialect = replace(dialect, encoding=encoding)
    if kind == "json":
        return dialect
    delimiter = dialect.delimiter or ("\t" if kind == "tsv" else None)
    quote = '"' if dialect.quote is None else dialect.quote
    if delimiter is None:
        delimiter = detect_delimiter(_head(source, encoding), quote)
    return replace(dialect, delimiter=delimiter, quote=quote)


def _format(source: Source) -> str:
    path = Path(source.name)
    suffix = path.suffix.lower()
    if suffix in _COMPRESSED:
        suffix = Path(path.stem).suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if source.name == "standard input":
        with source.opened() as stream:
            return _format_of(stream.read(_HEAD))
    raise errors.InputFileError(
        f"{source.name} is of an unsupported kind. Supported: {', '.join(_SUFFIXES)}, each also "
        f"with {' or '.join(_COMPRESSED[:2])}. For another name give --format."
    )


def _format_of(head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    return "json" if text.startswith((b"{", b"[")) else "csv"


def _head(source: Source, encoding: str) -> str:
    """Return the first records of a text file; the last line may be cut off."""
    with source.opened() as stream:
        data = stream.read(_HEAD)
    return codecs.getincrementaldecoder(encoding)("replace").decode(data)


def detect_encoding(source: Source, kind: str) -> str:
    """Return the encoding of a text file.

    A byte order mark decides, then valid UTF-8. CSV that has no UTF-8 sequence at all, and mostly
    ASCII letters, is Windows-1252. JSON is always Unicode.

    Raises:
        InputFileError: it is none of them.
    """
    with source.opened() as stream:
        head = stream.read(_HEAD)
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    wide = _utf16(head)
    bad = _first_bad_line(source) if wide is None else None
    if bad is None:
        return wide or "utf-8"
    if kind != "json" and _is_western(source):
        return "windows-1252"
    raise errors.InputFileError(
        f"{source.name}, line {bad} is not UTF-8. Nothing was loaded; save it as UTF-8, or name "
        "its encoding, as in --encoding windows-1252."
    )


def _utf16(head: bytes) -> str | None:
    """Return the byte order of UTF-16 without a mark: every other byte of its ASCII is 0."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if len(head) >= 4 and max(even, odd) * 3 > len(head) // 2 and min(even, odd) == 0:
        return "utf-16-be" if even else "utf-16-le"
    return None


def _first_bad_line(source: Source) -> int | None:
    """Return the line of the first byte that is not UTF-8, or None."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with source.opened() as stream:
        while True:
            chunk = stream.read(_CHUNK)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return line + error.object.count(b"\n", 0, error.start)
            line += chunk.count(b"\n")
            if not chunk:
                return None


def _is_western(source: Source) -> bool:
    """Return whether the bytes are those of a Western European text in Windows-1252."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    letters = high = 0
    with source.opened() as stream:
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            letters += len(chunk) - len(chunk.translate(None, _LETTERS))
            invalid = re.findall("[^\0-\x7f]", decoder.decode(chunk))
            high += len(invalid)
            if any(c < "\udc80" or c in _UNDEFINED for c in invalid):
                return False
    return 3 * high <= letters


def detect_delimiter(head: str, quote: str) -> str:
    """Return the delimiter with which most records have as many fields as the header."""
    return max(_DELIMITERS, key=lambda delimiter: _score(head, delimiter, quote))


def _score(head: str, delimiter: str, quote: str) -> tuple[float, int]:
    reader = csv.reader(
        io.StringIO(head, newline=""),
        delimiter=delimiter,
        quotechar=quote or None,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
    )
    widths = [len(row) for row in islice(reader, 100) if row]
    if len(head) >= _HEAD // 4 and len(widths) > 2:
        widths.pop()  # it may be cut off
    if not widths or widths[0] < 2:
        return 0.0, 0
    return widths.count(widths[0]) / len(widths), widths[0]
