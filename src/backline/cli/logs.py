"""Log settings of the command line: lines beside the progress bar, or JSON for a server."""

from __future__ import annotations

import logging
import sys

import structlog

from backline.cli.output import err


def log_to_console(*, verbose: bool) -> None:
    """Log warnings to standard error, or every step with `verbose`.

    The lines go through the console, which keeps them apart from a progress bar.
    """
    level = logging.INFO if verbose else logging.WARNING
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S%z", utc=False),
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


def log_for_server() -> None:
    """Log one JSON object per line for log collectors, or readable lines on a terminal."""
    if sys.stderr.isatty():
        renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(pad_event_to=0)
    else:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
