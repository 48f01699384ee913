"""The report at the end of a backfill, and the verdict of a verification, for people."""

from __future__ import annotations

from typing import Any, Final

from rich.markup import escape

from backline.backfill import BackfillReport, IndexOutcome
from backline.cli.output import count, coverage_line, duration, facts, out, percent
from backline.reconcile import Reconciled
from backline.types import Verification

SHOWN: Final = 10
LONG_TEXTS: Final = {
    "truncate": "truncated to what the model reads",
    "average": "embedded as the mean of their parts",
    "reject": "not embedded",
}


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
    for notice in report.notices:
        out.print(f"  {notice}", markup=False)
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
    if report.long:
        keys = ", ".join(report.long_keys[:SHOWN])
        pairs["long texts"] = f"{report.long:,} {LONG_TEXTS[report.long_text]}, by key: {keys}"
    pairs["index"] = _index_line(report.index)
    if report.beside:
        pairs["beside"] = f"run {', '.join(map(str, report.beside))} shared the same queue"
    return pairs


def _index_line(index: IndexOutcome) -> str:
    if index.state == "built":
        return f"HNSW built in {duration(index.seconds)}"
    if index.state == "not needed":
        return "none: below 10,000 rows every row is compared, which takes milliseconds"
    return f"{index.state}: {index.why}" if index.why else index.state


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
        out.print(
            f"  [yellow]Mend it: backline reconcile {escape(name)} && "
            f"backline backfill {escape(name)}[/yellow]"
        )


def show_reconciled(result: Reconciled) -> None:
    """Each kind of drift with its count and examples, what was done about it, and what is next."""
    name = escape(result.collection)
    verdict = "[yellow]drift[/yellow]" if result.found else "[green]no drift[/green]"
    if result.stopped:
        verdict += ", stopped"
    out.print(f"[bold]Reconcile {name}:[/bold] {verdict} among {count(result.rows, 'row')}")
    pairs = {
        kind: f"{number:,}, such as {', '.join(result.examples[kind][:3])}"
        for kind, number in sorted(result.found.items())
    }
    pairs |= {f"not repaired: {what}": why for what, why in result.unrepaired.items()}
    facts(pairs)
    if result.dry_run and result.found:
        out.print(f"  [yellow]Nothing was changed. Repair it: backline reconcile {name}[/yellow]")
    if result.removed:
        out.print(f"  {count(result.removed, 'left-over entry', 'left-over entries')} removed")
    if result.enqueued:
        out.print(f"  {count(result.enqueued, 'row')} enqueued. Embed: backline backfill {name}")
    if result.stopped and result.last_key is not None:
        out.print(f"  Go on with: --after {result.last_key}", markup=False)
