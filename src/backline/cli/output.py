"""What commands print: results on standard output, progress and messages on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
)
from rich.table import Table

from backline.types import Coverage, RunRecord

err = Console(stderr=True, highlight=False)
out = Console(highlight=False, soft_wrap=True)

PLAIN_EVERY = 5.0


def say(message: str) -> None:
    """A line for the person at the terminal."""
    err.print(message)


def emit(result: Any) -> None:
    """One machine-readable object on standard output."""
    sys.stdout.write(json.dumps(_plain(result), ensure_ascii=False, default=str) + "\n")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on standard output."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(shown)


def facts(pairs: Mapping[str, Any]) -> None:
    """Aligned name and value lines on standard output."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        out.print(f"  {name:<{width}}  {value}")


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


def coverage_line(coverage: Coverage) -> str:
    """Coverage in one line."""
    wanted = coverage.rows - coverage.blank
    parts = [
        f"{coverage.embedded:,} of {wanted:,} rows embedded ({percent(coverage.ratio)})",
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
        self._task: TaskID | None = None
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=err,
            transient=True,
        )

    def __enter__(self) -> BackfillProgress:
        if err.is_terminal and not self._quiet:
            self._bar.start()
            self._task = self._bar.add_task("embedding", total=None, pace="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, run: RunRecord, coverage: Coverage) -> None:
        if self._quiet:
            return
        done, total = run.embedded + run.failed, run.embedded + run.failed + coverage.pending
        rate = coverage.rate
        eta = duration(coverage.eta_seconds) if rate else "…"
        if self._task is not None:
            pace = f"{rate:,.0f} rows/s, {eta} left"
            self._bar.update(self._task, completed=done, total=total or None, pace=pace)
        elif run.seconds - self._printed >= PLAIN_EVERY:
            self._printed = run.seconds
            say(f"{done:,} of {total:,} rows, {rate:,.0f} rows/s, {eta} left")
