"""From an exception to one line and an exit code: the only place of the command line that does it.

0: all well. 1: something fell short. 2: wrong usage or configuration. 130: stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, Final

import structlog
import typer
from typer.core import TyperGroup

from backline import errors
from backline.cli.context import NEEDS_CONNECTION
from backline.cli.output import emit, err
from backline.postgres import embedded

FELL_SHORT: Final = 1
WRONG_USAGE: Final = 2
STOPPED: Final = 130

# typer vendors click under a private name, so its base class of errors is found by inheritance.
UsageProblem: Final[type[Exception]] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def run(command: Callable[..., Any]) -> int:
    """Run the parsed command line; returns the exit code of the process."""
    _tolerate_any_encoding()
    signal.signal(signal.SIGTERM, terminated)
    try:
        code = int(command(standalone_mode=False) or 0)
        sys.stdout.flush()
    except errors.BacklineError as error:
        return _report(type(error).__name__, str(error), error.exit_code)
    except UsageProblem as error:
        return _report("UsageError", _usage(error), WRONG_USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return _report("Stopped", "Stopped.", STOPPED)
    except BrokenPipeError:
        _forget_stdout()
        return FELL_SHORT
    except Exception as error:
        return _report("InternalError", _bug(error), FELL_SHORT)
    return code


def with_verbose(command: Any) -> Any:
    """Add `-v, --verbose` to every command below `command`."""
    option = _verbose_option()
    waiting = [command]
    while waiting:
        each = waiting.pop()
        if isinstance(each, TyperGroup):
            waiting.extend(each.commands.values())
        else:
            each.params.append(option)
    return command


def _verbose_option() -> Any:
    """The option as typer makes it, so that nothing of its inside is relied on."""

    def options(
        verbose: Annotated[
            bool,
            typer.Option(
                "--verbose",
                "-v",
                callback=lambda value: log_to_stderr(verbose=value),
                expose_value=False,
                envvar="BACKLINE_VERBOSE",
                show_envvar=False,
                help="Log what happens to standard error, and show the traceback of a bug. "
                "Environment: BACKLINE_VERBOSE.",
            ),
        ] = False,
    ) -> None: ...

    holder = typer.Typer()
    holder.command()(options)
    return typer.main.get_command(holder).params[0]


def log_to_stderr(*, verbose: bool) -> None:
    """Warnings only, or with `verbose` every step; through the console, beside a progress bar."""
    level = logging.INFO if verbose else logging.WARNING
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _ConsoleLogger(),
    )
    if verbose:
        logging.basicConfig(
            level=logging.INFO, handlers=[_ConsoleHandler()], format="%(name)s: %(message)s"
        )


class _ConsoleLogger:
    def msg(self, message: str) -> None:
        err.print(message, markup=False, soft_wrap=True)

    debug = info = warning = error = critical = msg


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), markup=False, soft_wrap=True)


def _report(kind: str, message: str, code: int) -> int:
    """One line on standard error and, where it was asked for, one object on standard output."""
    if "--json" in sys.argv:
        emit({"error": {"kind": kind, "message": message, "exit_code": code}})
        sys.stdout.flush()
    if not message or code == STOPPED:
        err.print(message, end="\n" if message else "")
    else:
        err.print("[red]error:[/red]", end=" ", soft_wrap=True)
        err.print(message, markup=False, soft_wrap=not err.is_terminal)
    return code


def _usage(error: Any) -> str:
    """What was wrong with the call; nothing where no arguments at all have shown the help."""
    if getattr(error, "option_name", None) == "--via":  # one of the commands that have it not
        return NEEDS_CONNECTION.format("--via")
    said = error.format_message()
    path = error.ctx.command_path if getattr(error, "ctx", None) else "backline"
    return f"{said.rstrip('.')}. See: {path} --help" if said else ""


def _bug(error: Exception) -> str:
    if logging.getLogger().isEnabledFor(logging.INFO):
        err.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(frame.filename)}:{frame.lineno}"  # noqa: PTH119
    return (
        f"{type(error).__name__}: {error} ({where}). This is a bug in Backline; what was stored "
        "is safe. Run the command again with --verbose for the traceback, and report it."
    )


def _tolerate_any_encoding() -> None:
    """A terminal that cannot show a character shows a question mark, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def terminated(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that leases are given back and a server is stopped."""
    raise KeyboardInterrupt


def end_soon(seconds: float = 1.5) -> None:
    """End the process even if something in it does not: no thread can be interrupted."""

    def end() -> None:
        embedded.stop()
        os._exit(STOPPED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _forget_stdout() -> None:
    """Whoever read standard output is gone (`| head`): write nothing more, and no traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
