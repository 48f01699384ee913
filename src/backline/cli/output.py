"""Printing: results to standard output, progress and messages to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from backline.types import Coverage, Problem

err = Console(stderr=True, highlight=False)
# Lines wrap on a terminal only: grep and cut need them whole.
out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def say(message: str) -> None:
    """Print a message to standard error, so that standard output holds results only.

    A full or closed stream does not stop the work.
    """
    with suppress(OSError):
        err.print(message, markup=False, soft_wrap=not err.is_terminal)


def emit(result: Any) -> None:
    """Print a result to standard output as one line of JSON."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    value = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    text = json.dumps(value, ensure_ascii=not unicode, default=_as_text)
    sys.stdout.write(text + "\n")


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table to standard output; cells wrap on a terminal only."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not out.is_terminal:
        _plain_table([list(columns), *cells])
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in cells:
        grid.add_row(*map(escape, row))
    out.print(grid)


def _plain_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.print(line.rstrip(), markup=False)


def facts(pairs: Mapping[str, Any]) -> None:
    """Print aligned names and values to standard output; a long value wraps in its column."""
    width = max(map(len, pairs), default=0)
    if not out.is_terminal:
        for name, value in pairs.items():
            out.print(f"  {name:<{width}}  {value}", markup=False)
        return
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    grid.add_column(width=width + 2)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(Text(f"  {name}"), Text(str(value)))
    out.print(grid)


def duration(seconds: float | None) -> str:
    """Return seconds as text: `9.5 s`, `90 s`, `2 min 05 s`, `3 h 10 min`."""
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


def moment(time: datetime) -> str:
    """Return a time in this machine's zone, with its offset: `2026-11-30 12:00:05+01:00`."""
    return time.astimezone().isoformat(sep=" ", timespec="seconds")


def percent(ratio: float) -> str:
    """Return a ratio as a percentage; a ratio below 1 never rounds up to 100 %."""
    text = f"{100 * ratio:.2f}".rstrip("0").rstrip(".")
    return "99.99 %" if text == "100" and ratio < 1 else f"{text} %"


def pace(rate: float, remaining: int) -> str:
    """Return rate and remaining time: `230 rows/s, 2 min 05 s left`."""
    if rate <= 0:
        return "no rows stored yet, time left unknown"
    per_second = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{per_second} rows/s, {duration(remaining / rate)} left"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def show_problems(problems: Sequence[Problem]) -> None:
    """Print what makes the coverage untrue, each problem with its remedy."""
    for each in problems:
        out.print(f"  [red]{escape(each.problem)}[/red]\n    {escape(each.remedy)}")


def coverage_line(coverage: Coverage) -> str:
    """Return the coverage of a collection in one line."""
    if coverage.empty and not coverage.surplus:
        return "empty: the table has no rows"
    if coverage.ratio is None and not coverage.surplus:
        rows = [f"{coverage.blank:,} without text", *_outside(coverage)]
        return f"no row has text: {', '.join(rows)}"
    with_text = max(0, coverage.rows - coverage.blank)
    share = percent(coverage.ratio or 0.0)
    if coverage.problems and coverage.ratio == 1:
        share = "not certain"
    parts = [
        f"{min(coverage.embedded, with_text):,} of {count(with_text, 'row')} embedded ({share})",
        f"{coverage.pending:,} pending" if coverage.pending else "",
        f"{coverage.failed:,} failed" if coverage.failed else "",
        f"{coverage.missing:,} not yet enqueued" if coverage.missing else "",
        f"{coverage.blank:,} without text" if coverage.blank else "",
        *_outside(coverage),
    ]
    return ", ".join(part for part in parts if part)


def _outside(coverage: Coverage) -> list[str]:
    return [f"{coverage.excluded:,} outside the condition"] if coverage.excluded else []
