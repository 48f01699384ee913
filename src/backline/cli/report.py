"""The report at the end of a backfill, and the verdict of a verification, for people."""

from __future__ import annotations

from typing import Any, Final

from rich.markup import escape

from backline.backfill import BackfillReport
from backline.cli.output import count, coverage_line, duration, facts, out, percent
from backline.types import Verification

SHOWN: Final = 10


def show_backfill(report: BackfillReport) -> None:
    """Everything that a run did, and what is left to do."""
    out.print(f"[bold]Backfill {report.run} of {escape(report.collection)}: {report.state}[/bold]")
    facts(_backfill_facts(report))
    if report.failures:
        out.print("  [red]failed rows[/red]")
        for key, kind, error in report.failures[:SHOWN]:
            out.print(f"    {key}  {kind}: {error}", markup=False)
        if report.failed > SHOWN:
            out.print(f"    and {report.failed - SHOWN:,} more")
    if report.stopped_by:
        out.print(f"  stopped: {report.stopped_by}", markup=False)
    for line in _next_steps(report):
        out.print(f"  {line}")


def _backfill_facts(report: BackfillReport) -> dict[str, Any]:
    requests = f"{count(report.batches, 'request')}, {count(report.tokens, 'token')}"
    pace = f", {report.rows_per_second:,.0f} rows/s" if report.embedded else ""
    pairs: dict[str, Any] = {
        "model": report.model,
        "settings": ", ".join(f"{k} {v}" for k, v in report.settings.items()),
        "rows": f"{report.scanned:,} looked at",
        "embedded": f"{count(report.embedded, 'row')} in {requests}",
        "failed": f"{report.failed:,}",
        "time": f"{duration(report.seconds)}{pace}",
        "coverage": coverage_line(report.coverage),
    }
    if report.reused:
        pairs["saved"] = f"{count(report.reused, 'row')} had a text that was embedded already"
    if report.truncated:
        pairs["truncated"] = (
            f"texts longer than the model reads, by key: {', '.join(report.truncated)}"
        )
    if report.beside:
        pairs["beside"] = f"run {', '.join(map(str, report.beside))} shared the same queue"
    return pairs


def _next_steps(report: BackfillReport) -> list[str]:
    if report.complete and report.embedded == 0:
        return ["[green]Nothing to do: every row was embedded already.[/green]"]
    if report.complete:
        return ["[green]Complete: every row that has text is embedded.[/green]"]
    steps = []
    failed, name = report.coverage.failed, escape(report.collection)
    if failed:
        steps.append(
            f"[yellow]{count(failed, 'row')} failed. See: backline failures list {name}. Send "
            f"again: backline failures retry {name}[/yellow]"
        )
    if report.coverage.pending or report.coverage.missing:
        steps.append(
            "[yellow]Not complete. Run the same command again: it embeds only what is "
            "left.[/yellow]"
        )
    return steps or ["[yellow]Not complete: rows were edited meanwhile. Run it again.[/yellow]"]


def show_verification(name: str, found: Verification) -> None:
    """Passed, or each kind of problem with its count, examples and remedy."""
    wanted = found.rows - found.blank
    ratio = 1.0 if wanted == 0 else found.embedded / wanted
    verdict = "[green]passed[/green]" if found.passed else "[yellow]not passed[/yellow]"
    out.print(f"[bold]Verify {escape(name)}:[/bold] {verdict}")
    pairs: dict[str, Any] = {
        "rows": f"{found.embedded:,} of {wanted:,} ({percent(ratio)}) have a right vector",
        "checked": "dimensions, finite, unit length, of the current text, by the current model",
    }
    if found.blank:
        pairs["blank"] = f"{count(found.blank, 'row')} without text, and rightly without a vector"
    for problem, number in sorted(found.problems.items()):
        examples = ", ".join(found.examples[problem][:3])
        pairs[problem] = f"{count(number, 'row')}, by key: {examples}"
    facts(pairs)
    if not found.passed:
        out.print(f"  [yellow]Mend it: backline backfill {escape(name)}[/yellow]")
