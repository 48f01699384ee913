"""Progress of a backfill on standard error."""

from __future__ import annotations

from typing import Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
)

from backline.cli.output import count, err, pace, say
from backline.types import Coverage, RunRecord

SECONDS_BETWEEN_LINES: Final = 5.0


class BackfillProgress:
    """A progress bar with rate and ETA on a terminal, plain lines elsewhere."""

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
        if self._task is not None:
            self._bar.stop()

    def __call__(self, run: RunRecord, coverage: Coverage) -> None:
        if self._quiet:
            return
        processed = coverage.embedded + coverage.failed
        if self._before is None:
            self._before = max(0, processed - run.embedded - run.failed)
        # The coverage is one snapshot. The run's own counters are read at another moment.
        done, left = max(0, processed - self._before), run.remaining(coverage)
        speed = pace(coverage.rate, left)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=done + left or None, pace=speed)
        elif done + left and run.seconds - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = run.seconds
            say(f"{done:,} of {count(done + left, 'row')}, {speed}")
