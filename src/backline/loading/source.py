"""Open the file of a load: local, a pipe or standard input, plain or compressed."""

from __future__ import annotations

import gzip
import io
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

from backline import errors, extras

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that were read and their total, both as they are on the disk."""

COMPRESSIONS: Final = ("none", "gzip", "zstd")
_MAGIC: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "ZIP (an .xlsx file is one too)",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
_CHUNK: Final = 1 << 16


@dataclass(frozen=True)
class Source:
    """A file that is read several times and may not change meanwhile.

    Attributes:
        path: the file, or a copy of what a pipe delivered.
        name: what messages call it.
        compression: one of `COMPRESSIONS`.
        progress: is told the bytes of the last pass.

    """

    path: Path
    name: str
    status: tuple[int, int]
    compression: str = "none"
    progress: Progress = field(default=lambda _done, _total: None)

    @property
    def size(self) -> int:
        return self.status[0]

    @contextmanager
    def opened(self, progress: Progress | None = None) -> Iterator[BinaryIO]:
        """Yield the decompressed bytes, and raise InputFileError for what cannot be read."""
        with self.readable():
            raw = io.BufferedReader(_Counted(self.path, self.size, progress), _CHUNK)
            with raw, _decompressed(cast(BinaryIO, raw), self.compression) as stream:
                yield stream

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Raise InputFileError in place of the errors of the system and of a decompressor."""
        damaged: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
        try:
            yield
        except (*damaged, *_zstd_errors()) as error:
            raise errors.InputFileError(
                f"{self.name} is damaged or cut off: {error} ({self.compression}). "
                "Nothing was loaded; get the whole file."
            ) from None
        except OSError as error:
            raise _unreadable(self.name, error) from None

    def require_unchanged(self) -> None:
        """Raise InputFileError if the file was written to since it was opened."""
        with self.readable():
            if _status(self.path) != self.status:
                raise errors.InputFileError(
                    f"{self.name} changed while it was read. Nothing was loaded; run the command "
                    "again once the file is complete."
                )


@contextmanager
def open_source(file: Path, compression: str | None = None) -> Iterator[Source]:
    """Yield a file, or with `-` standard input, as one that can be read several times.

    Raises:
        InputFileError: it is missing, is a folder, cannot be read or is of another compression.
    """
    name = "standard input" if str(file) == "-" else str(file)
    try:
        regular = name == str(file) and _is_regular(file)
    except OSError as error:
        raise _unreadable(name, error) from None
    if regular:
        yield _source(file, name, compression)
        return
    with tempfile.TemporaryDirectory(prefix="backline-load-") as folder:
        try:
            _copy(file, Path(folder, "copy"))
        except OSError as error:
            raise _unreadable(name, error) from None
        yield _source(Path(folder, "copy"), name, compression)


def _is_regular(file: Path) -> bool:
    mode = file.stat().st_mode
    if stat.S_ISDIR(mode):
        raise errors.InputFileError(f"{file} is a folder. Name a file in it.")
    return stat.S_ISREG(mode)


def _copy(file: Path, copy: Path) -> None:
    """Copy a pipe or standard input, which can be read only once."""
    with copy.open("wb") as target:
        if str(file) == "-":
            shutil.copyfileobj(sys.stdin.buffer, target)
            return
        with file.open("rb") as pipe:
            shutil.copyfileobj(pipe, target)


def _source(path: Path, name: str, compression: str | None) -> Source:
    try:
        status = _status(path)
        found = compression or _compression(path, name)
    except OSError as error:
        raise _unreadable(name, error) from None
    if found == "zstd":
        extras.require("zstd")
    return Source(path, name, status, found)


def _status(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _compression(path: Path, name: str) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "none")
    if found not in COMPRESSIONS:
        raise errors.InputFileError(
            f"{name} is compressed by {found}. Decompress it, or compress it by gzip or zstd."
        )
    return found


def _unreadable(name: str, error: OSError) -> errors.InputFileError:
    if isinstance(error, FileNotFoundError):
        return errors.InputFileError(f"There is no file {name}.")
    return errors.InputFileError(
        f"{name} cannot be read: {error.strerror or error}. Nothing was loaded."
    )


class _Counted(io.FileIO):
    """A file that tells how many of its bytes were read."""

    def __init__(self, path: Path, size: int, progress: Progress | None) -> None:
        super().__init__(path)
        self._size = size
        self._progress = progress
        self._done = 0

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = super().readinto(buffer) or 0
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._size)
        return count


def _decompressed(raw: BinaryIO, compression: str) -> BinaryIO:
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if compression == "zstd":
        return cast(BinaryIO, _zstd().ZstdFile(raw))
    return raw


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _zstd_errors() -> tuple[type[Exception], ...]:
    return (_zstd().ZstdError,) if extras.installed("zstd") else ()
