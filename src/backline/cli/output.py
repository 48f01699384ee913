"""What commands print: results on standard output, progress and messages on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

from backline.types import Coverage, RunRecord

err = Console(stderr=True, highlight=False)
# On a terminal, lines break between words; into a pipe or a file, never, so that they can be
# searched and cut.
out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())

PLAIN_EVERY = 5.0


def say(message: str) -> None:
    """A line for the person at the terminal; never on standard output."""
    err.print(message, markup=False, soft_wrap=not err.is_terminal)


def emit(result: Any) -> None:
    """One machine-readable object on standard output."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    shown = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    text = json.dumps(shown, ensure_ascii=not unicode, default=_as_text)
    sys.stdout.write(text + "\n")


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on standard output: cells wrap on a terminal, and never elsewhere."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not out.is_terminal:
        _plain_table([list(columns), *cells])
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in cells:
        shown.add_row(*map(escape, row))
    out.print(shown)


def _plain_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.print(line.rstrip(), markup=False)


def facts(pairs: Mapping[str, Any]) -> None:
    """Aligned name and value lines on standard output; long values wrap below themselves."""
    width = max(map(len, pairs), default=0)
    if not out.is_terminal:
        for name, value in pairs.items():
            out.print(f"  {name:<{width}}  {value}", markup=False)
        return
    shown = Table.grid(padding=(0, 2), pad_edge=False)
    shown.add_column(width=width + 2)
    shown.add_column(overflow="fold")
    for name, value in pairs.items():
        shown.add_row(Text(f"  {name}"), Text(str(value)))
    out.print(shown)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(ratio: float) -> str:
    """A share that never rounds up to a false 100 %."""
    shown = f"{100 * ratio:.2f}".rstrip("0").rstrip(".")
    return "99.99 %" if shown == "100" and ratio < 1 else f"{shown} %"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def coverage_line(coverage: Coverage) -> str:
    """Coverage in one line."""
    wanted = coverage.rows - coverage.blank
    parts = [
        f"{coverage.embedded:,} of {count(wanted, 'row')} embedded ({percent(coverage.ratio)})",
        f"{coverage.pending:,} pending" if coverage.pending else "",
        f"{coverage.failed:,} failed" if coverage.failed else "",
        f"{coverage.missing:,} not yet enqueued" if coverage.missing else "",
        f"{coverage.blank:,} without text" if coverage.blank else "",
    ]
    return ", ".join(part for part in parts if part)


class BackfillProgress:
    """A progress bar with rate and ETA on a terminal, plain lines otherwise."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._printed = 0.0
        self._before: int | None = None
        self._task: TaskID | None = None
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=max(8, min(40, err.width - 55))),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=err,
            transient=True,
        )

    def __enter__(self) -> BackfillProgress:
        if err.is_terminal and not self._quiet:
            self._bar.start()
            self._task = self._bar.add_task("embedding", total=None, pace="starting")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, run: RunRecord, coverage: Coverage) -> None:
        if self._quiet:
            return
        settled = coverage.embedded + coverage.failed
        if self._before is None:
            self._before = max(0, settled - run.embedded - run.failed)
        # From one snapshot, the coverage; a run's own counts are read at another moment.
        done, total = (max(0, n - self._before) for n in (settled, coverage.rows - coverage.blank))
        pace = _pace(coverage)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None, pace=pace)
        elif total and run.seconds - self._printed >= PLAIN_EVERY:
            self._printed = run.seconds
            say(f"{done:,} of {count(total, 'row')}, {pace}")


def _pace(coverage: Coverage) -> str:
    if coverage.rate <= 0:
        return "starting"
    return f"{coverage.rate:,.0f} rows/s, {duration(coverage.eta_seconds)} left"
