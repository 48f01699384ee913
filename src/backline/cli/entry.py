"""From an exception to one line and an exit code: the only place of the command line that does it.

0: success. 1: incomplete result. 2: wrong usage or configuration. 130: stopped by Ctrl-C.
"""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import typer
from rich.text import Text

from backline import errors
from backline.cli import streams
from backline.cli.output import emit, err
from backline.cli.signals import STOPPED, interrupt_on_signals

INCOMPLETE: Final = 1
WRONG_USAGE: Final = 2

COLLECTION_OBJECTS: Final = 50_000
"""Allocations between two garbage collections. A page of 2,000 rows allocates 12,000 objects."""

# typer vendors click under a private name, so its base class of errors is found by inheritance.
UsageProblem: Final[type[Exception]] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def run(command: Callable[..., Any]) -> int:
    """Run the parsed command line; return the exit code of the process."""
    interrupt_on_signals()
    try:
        code = int(command(standalone_mode=False) or 0)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return _report("Stopped", "Stopped.", STOPPED)
    except Exception as error:
        return _failed(error)
    return code


def _failed(error: Exception) -> int:
    """Report an error; return the exit code."""
    if isinstance(error, errors.BacklineError):
        return _report(type(error).__name__, str(error), error.exit_code)
    if isinstance(error, UsageProblem):
        return _report("UsageError", _usage(error), WRONG_USAGE)
    if isinstance(error, BrokenPipeError):
        streams.discard_stdout()
        return INCOMPLETE
    if isinstance(error, OSError) and streams.refused(error):
        streams.discard_stdout()
        return _report("OutputError", streams.not_written(error), INCOMPLETE)
    return _report("InternalError", _bug(error), INCOMPLETE)


def tune_garbage_collector() -> None:
    """Collect garbage rarely, and never among the objects that the imports made.

    Rows have no reference cycles. At Python's default thresholds the collector took a fifth of the
    Python time of a backfill and an eighth of a busy server's.
    """
    gc.freeze()
    gc.set_threshold(COLLECTION_OBJECTS)


def _report(kind: str, message: str, code: int) -> int:
    """Print an error on standard error and, with --json, as an object on standard output."""
    try:
        if "--json" in sys.argv:
            emit({"error": {"kind": kind, "message": message, "exit_code": code}})
            sys.stdout.flush()
    except OSError:
        streams.discard_stdout()
    with suppress(OSError):
        if not message or code == STOPPED:
            err.print(message, end="\n" if message else "")
        else:
            line = Text.assemble(("error:", "red"), " ", message)
            err.print(line, soft_wrap=not err.is_terminal)
    return code


def _usage(error: Any) -> str:
    """Return what is wrong with the call; empty where the help was shown instead."""
    if getattr(error, "option_name", None) == "--via":  # a command without this option
        from backline.wiring import NEEDS_CONNECTION

        return NEEDS_CONNECTION.format("--via")
    message = error.format_message()
    path = error.ctx.command_path if getattr(error, "ctx", None) else "backline"
    return f"{message.rstrip('.')}. See: {path} --help" if message else ""


def _bug(error: Exception) -> str:
    if logging.getLogger().isEnabledFor(logging.INFO):
        err.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno}). This is a "
        "bug in Backline. Stored vectors are safe. Run the command again with --verbose for the "
        "traceback, and report it."
    )
