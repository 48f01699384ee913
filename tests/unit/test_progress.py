"""Coverage, rate and remaining time as they are shown."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from backline.cli.output import coverage_line, pace
from backline.server.metrics import Metrics
from backline.server.schemas import Coverage as CoverageView
from backline.types import Coverage, RunRecord
from backline.worker.stats import WorkerStats

NONE = Coverage(
    rows=0, embedded=0, blank=0, pending=0, failed=0, in_flight=0, workers=0, rate=0.0,
    lag_seconds=0.0,
)  # fmt: skip
HALF = replace(NONE, rows=1000, embedded=400, blank=50, pending=100, failed=10, rate=22.0)
RUN = RunRecord(
    id=1, collection="notes", model="hash/hash", state="running", scanned=500, due=500,
    embedded=400, reused=0, failed=10, batches=8, tokens=0, started_at=datetime.now(UTC),
    finished_at=None, seconds=20.0,
)  # fmt: skip


# --- empty tables ---------------------------------------------------------------------------------


def test_an_empty_table_has_no_ratio() -> None:
    assert (NONE.empty, NONE.ratio) == (True, None)
    assert coverage_line(NONE) == "empty: the table has no rows"


def test_a_table_without_text_has_no_ratio() -> None:
    blank = replace(NONE, rows=3, blank=3)
    assert (blank.empty, blank.ratio) == (False, None)
    assert coverage_line(blank) == "no row has text: 3 without text"


def test_the_views_and_the_metrics_of_an_empty_table_have_no_ratio() -> None:
    view = CoverageView.of(NONE, 0)
    assert (view.empty, view.ratio) == (True, None)
    metrics = Metrics()
    metrics.set_coverage("notes", NONE)
    ratio = metrics.registry.get_sample_value("backline_coverage_ratio", {"collection": "notes"})
    assert ratio is not None
    assert math.isnan(ratio)


# --- what is left ---------------------------------------------------------------------------------


def test_the_remaining_time_counts_rows_that_are_not_scanned_yet() -> None:
    """540 rows are left; the queue holds 100 of them."""
    assert HALF.remaining == 540
    assert HALF.eta_seconds == pytest.approx(540 / 22)


def test_the_remaining_time_is_unknown_while_nothing_is_stored() -> None:
    stalled = replace(HALF, rate=0.0)
    assert stalled.eta_seconds is None
    assert pace(stalled.rate, stalled.remaining) == "no rows stored yet, time left unknown"
    metrics = Metrics()
    metrics.set_coverage("notes", stalled)
    eta = metrics.registry.get_sample_value("backline_eta_seconds", {"collection": "notes"})
    assert eta is not None
    assert math.isnan(eta)


def test_nothing_remains_of_a_complete_table() -> None:
    done = replace(HALF, embedded=940, pending=0)
    assert (done.remaining, done.eta_seconds) == (0, 0.0)


def test_a_run_with_a_limit_has_the_rest_of_the_limit_left() -> None:
    assert RUN.remaining(HALF) == 540
    assert replace(RUN, settings={"limit": 420}).remaining(HALF) == 10
    assert replace(RUN, settings={"limit": 100}).remaining(HALF) == 0


@pytest.mark.parametrize(
    ("rate", "shown"), [(1234.6, "1,235 rows/s"), (12.4, "12 rows/s"), (0.25, "0.25 rows/s")]
)
def test_a_slow_rate_is_not_rounded_to_nothing(rate: float, shown: str) -> None:
    assert pace(rate, 100).startswith(shown)


# --- the rate of a worker -------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("backline.worker.stats.time.monotonic", clock.monotonic)
    return clock


def run_for(clock: Clock, worker: WorkerStats, seconds: int, rows: int, *, every: int) -> None:
    """Store `rows` each `every` seconds, and measure each second."""
    worker.held = rows
    for second in range(1, seconds + 1):
        clock.now += 1
        if second % every == 0:
            worker.processed += rows
        worker.measure_rate()


def test_the_rate_is_that_of_large_batches_between_which_nothing_is_stored(clock: Clock) -> None:
    """A batch of 500 rows every 25 s is 20 rows/s, and never less than half of it."""
    worker = WorkerStats(held=500)
    for second in range(1, 500):
        clock.now += 1
        worker.processed += 500 if second % 25 == 0 else 0
        worker.measure_rate()
        if second >= 25:
            assert 10 <= worker.rate <= 20
        if second >= 125:
            assert worker.rate >= 16


def test_the_rate_is_unknown_before_the_first_batch(clock: Clock) -> None:
    worker = WorkerStats(held=100)
    for _ in range(60):
        clock.now += 1
        worker.measure_rate()
        assert worker.rate == 0


def test_the_rate_follows_a_slower_provider_within_a_minute(clock: Clock) -> None:
    worker = WorkerStats()
    run_for(clock, worker, 60, 100, every=1)
    assert worker.rate == pytest.approx(100, rel=0.05)
    run_for(clock, worker, 60, 10, every=1)
    assert worker.rate == pytest.approx(10, rel=0.1)


def test_an_idle_worker_has_no_rate_and_then_that_of_new_rows(clock: Clock) -> None:
    worker = WorkerStats()
    run_for(clock, worker, 30, 50, every=1)
    worker.held = 0
    for _ in range(3600):
        clock.now += 1
        worker.measure_rate()
    assert worker.rate == 0
    run_for(clock, worker, 5, 50, every=1)
    assert worker.rate == pytest.approx(50, rel=0.3)
