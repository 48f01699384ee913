"""The report at the end of a backfill, and the verdict of a verification, for people."""

from __future__ import annotations

from typing import Any

from backline.backfill import BackfillReport
from backline.cli.output import coverage_line, duration, facts, out, percent
from backline.types import Verification


def show_backfill(report: BackfillReport) -> None:
    """Everything that a run did, and what is left to do."""
    out.print(f"[bold]Backfill {report.run} of {report.collection}: {report.state}[/bold]")
    facts(_backfill_facts(report))
    if report.failures:
        out.print(f"  [red]failed rows[/red] (backline failures list {report.collection}):")
        for key, kind, error in report.failures[:10]:
            out.print(f"    {key}  {kind}: {error}", markup=False)
    if report.stopped_by:
        out.print(f"  stopped: {report.stopped_by}", markup=False)
    out.print(f"  {_next_step(report)}")


def _backfill_facts(report: BackfillReport) -> dict[str, Any]:
    pairs: dict[str, Any] = {
        "model": report.model,
        "settings": ", ".join(f"{k} {v}" for k, v in report.settings.items()),
        "rows": f"{report.scanned:,} looked at",
        "embedded": f"{report.embedded:,} rows in {report.batches:,} requests, "
        f"{report.tokens:,} tokens",
        "failed": f"{report.failed:,}",
        "time": f"{duration(report.seconds)}, {report.rows_per_second:,.0f} rows/s",
        "coverage": coverage_line(report.coverage),
    }
    if report.reused:
        pairs["saved"] = f"{report.reused:,} rows had a text that was embedded before or twice"
    if report.truncated:
        pairs["truncated"] = (
            f"texts longer than the model reads, e.g. {', '.join(report.truncated)}"
        )
    if report.beside:
        pairs["beside"] = f"run {', '.join(map(str, report.beside))} shares the same queue"
    return pairs


def _next_step(report: BackfillReport) -> str:
    coverage = report.coverage
    if report.complete and report.embedded == 0:
        return "[green]Nothing to do: every row was embedded already.[/green]"
    if report.complete:
        return "[green]Complete: every row that has text is embedded.[/green]"
    if coverage.failed:
        return (
            f"[yellow]{coverage.failed:,} rows failed. See them: backline failures list; send them "
            "again: backline failures retry.[/yellow]"
        )
    return "[yellow]Not complete. Run the same command again: it embeds only what is left.[/yellow]"


def show_verification(name: str, found: Verification) -> None:
    """Passed, or each kind of problem with its count, examples and remedy."""
    wanted = found.rows - found.blank
    ratio = 1.0 if wanted == 0 else found.embedded / wanted
    out.print(
        f"[bold]Verify {name}:[/bold] {found.embedded:,} of {wanted:,} rows ({percent(ratio)}) have "
        "a vector of the right dimensions, finite, of unit length, made from the current text by "
        "the current model"
        + (f"; {found.blank:,} rows have no text and no vector" if found.blank else "")
    )
    for problem, count in sorted(found.problems.items()):
        out.print(
            f"  [red]{problem}[/red]: {count:,} rows, e.g. {', '.join(found.examples[problem][:3])}"
        )
    out.print(
        "  [green]Passed.[/green]"
        if found.passed
        else f"  [yellow]Not passed. Mend it: backline backfill {name}.[/yellow]"
    )
