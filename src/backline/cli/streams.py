"""Standard streams that are closed, full or of another encoding."""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

# What a write to a full, broken or closed stream raises. A closed pipe is BrokenPipeError.
_REFUSED: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def prepare() -> None:
    """Open the null device for a closed stream, and tolerate any encoding.

    A closed descriptor would be given to the next file or socket. A character that the encoding of
    the terminal lacks is printed as a question mark.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def refused(error: OSError) -> bool:
    """Return whether a standard stream, which has no file name, refused the output."""
    return error.errno in _REFUSED and error.filename is None


def not_written(error: OSError) -> str:
    """Return the message for output that a stream refused."""
    return f"The output cannot be written: {error.strerror}."


def discard_stdout() -> None:
    """Redirect standard output to the null device, which takes what is buffered."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
