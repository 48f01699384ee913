"""Reports for the terminal: a backfill, its estimate, a verification, a reconciliation."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape

from backline.cli.output import (
    count,
    coverage_line,
    duration,
    facts,
    out,
    percent,
    show_problems,
)
from backline.errors import command

if TYPE_CHECKING:
    from backline.backfill import BackfillReport, IndexOutcome
    from backline.estimation import Preview
    from backline.reconcile import Reconciled
    from backline.types import Verification

EXAMPLES: Final = 10
LONG_TEXTS: Final = {
    "truncate": "truncated to the model's input length",
    "average": "embedded as the mean of their parts",
    "reject": "not embedded",
}


def show_backfill(report: BackfillReport) -> None:
    """Print what a run did and the next step."""
    out.print(f"[bold]Backfill {report.run} of {escape(report.collection)}: {report.state}[/bold]")
    facts(_backfill_facts(report))
    if report.failures:
        out.print("  [red]failed rows[/red]")
        for key, kind, error in report.failures[:EXAMPLES]:
            out.print(f"    {key}  {kind}: {error}", markup=False)
        if report.failed > EXAMPLES:
            out.print(f"    and {report.failed - EXAMPLES:,} more")
    for notice in report.notices:
        out.print(f"  {notice}", markup=False)
    if report.stopped_by:
        out.print(f"  stopped: {report.stopped_by}", markup=False)
    show_problems(report.coverage.problems)
    for line in _next_steps(report):
        out.print(f"  {line}")


def _backfill_facts(report: BackfillReport) -> dict[str, Any]:
    requests = f"{count(report.batches, 'request')}, {count(report.tokens, 'token')}"
    pace = f", {report.rows_per_second:,.0f} rows/s" if report.embedded else ""
    pairs: dict[str, Any] = {
        "model": report.model,
        "settings": ", ".join(f"{k} {v}" for k, v in report.settings.items()),
        "rows": f"{report.scanned:,} scanned",
        "embedded": f"{count(report.embedded, 'row')} in {requests}",
        "failed": f"{report.failed:,}",
        "time": f"{duration(report.seconds)}{pace}",
        "coverage": coverage_line(report.coverage),
    }
    if report.reused:
        pairs["reused"] = f"{count(report.reused, 'row')} had a text that was embedded already"
    if report.passages:
        pairs["passages"] = f"{report.passages:,} embedded; those that had a vector kept it"
    if report.long:
        keys = ", ".join(report.long_keys[:EXAMPLES])
        pairs["long texts"] = f"{report.long:,} {LONG_TEXTS[report.long_text]}, by key: {keys}"
    pairs["index"] = _index_line(report.index)
    if report.beside:
        pairs["beside"] = f"run {', '.join(map(str, report.beside))} shared the queue"
    return pairs


def _index_line(index: IndexOutcome) -> str:
    if index.state == "built":
        return f"HNSW built in {duration(index.seconds)}"
    if index.state == "not needed":
        return "none: below 10,000 rows an exact search takes milliseconds"
    return f"{index.state}: {index.why}" if index.why else index.state


def _next_steps(report: BackfillReport) -> list[str]:
    if report.coverage.empty:
        return ["Nothing to do: the table is empty."]
    if report.complete and report.embedded == 0:
        return ["[green]Nothing to do: every row was embedded already.[/green]"]
    if report.complete:
        return ["[green]Complete: every row with text is embedded.[/green]"]
    steps = []
    failed, name = report.coverage.failed, report.collection
    if failed:
        steps.append(
            f"[yellow]{count(failed, 'row')} failed. See: {_command('failures', 'list', name)}. "
            f"Retry: {_command('failures', 'retry', name)}[/yellow]"
        )
    if report.coverage.pending or report.coverage.missing:
        steps.append(
            "[yellow]Not complete. Run the same command again: it embeds only the remaining "
            "rows.[/yellow]"
        )
    if report.coverage.problems:
        steps.append("[yellow]Not complete: see the problems above.[/yellow]")
    return steps or ["[yellow]Not complete: rows were edited meanwhile. Run it again.[/yellow]"]


def show_preview(preview: Preview) -> None:
    """Print the estimate of a backfill."""
    name = escape(preview.collection)
    out.print(f"[bold]Estimate of a backfill of {name}[/bold] (nothing was spent)")
    tokens = f"{preview.tokens:,}"
    if preview.long:
        tokens += (
            f", {count(preview.long, 'text')} longer than the model's input: "
            f"{LONG_TEXTS[preview.long_text]}"
        )
    facts(
        {
            "model": preview.model,
            "rows": f"{preview.due:,} of {preview.rows:,} are due",
            "texts": f"{preview.unique:,} to embed; {preview.duplicates:,} duplicates and "
            f"{preview.cached:,} cached vectors cost nothing",
            "tokens": tokens,
            "price": "unknown" if preview.dollars is None else f"${preview.dollars:,.4f}",
            "time": f"{duration(preview.seconds)} ({preview.time_basis})",
        }
    )


def show_verification(name: str, result: Verification) -> None:
    """Print whether the collection passed; for each kind of problem, its count and examples."""
    with_text = result.rows - result.blank
    if result.empty:
        rows = "empty: the table has no rows"
    elif with_text == 0:
        rows = "no row has text"
    else:
        ratio = percent(result.embedded / with_text)
        rows = f"{result.embedded:,} of {with_text:,} ({ratio}) have a valid vector"
    outcome = "[green]passed[/green]" if result.passed else "[yellow]not passed[/yellow]"
    out.print(f"[bold]Verify {escape(name)}:[/bold] {outcome}")
    pairs: dict[str, Any] = {
        "rows": rows,
        "checked": "dimensions, finite values, unit length, current text, current model",
    }
    if result.excluded:
        pairs["excluded"] = f"{count(result.excluded, 'row')} outside the condition"
    if result.blank:
        pairs["blank"] = f"{count(result.blank, 'row')} without text, correctly without a vector"
    for problem, number in sorted(result.problems.items()):
        examples = ", ".join(result.examples[problem][:3])
        pairs[problem] = f"{count(number, 'row')}, by key: {examples}"
    facts(pairs)
    show_problems(result.table_problems)
    if result.problems and not result.table_problems:
        out.print(
            f"  [yellow]Repair: {_command('reconcile', name)} && "
            f"{_command('backfill', name)}[/yellow]"
        )


def show_reconciled(result: Reconciled) -> None:
    """Print each kind of drift with its count and examples, the repairs and the next step."""
    name = result.collection
    outcome = "[yellow]drift[/yellow]" if result.found else "[green]no drift[/green]"
    if result.stopped:
        outcome += ", stopped"
    out.print(f"[bold]Reconcile {escape(name)}:[/bold] {outcome} among {count(result.rows, 'row')}")
    pairs = {
        kind: f"{number:,}, such as {', '.join(result.examples[kind][:3])}"
        for kind, number in sorted(result.found.items())
    }
    pairs |= {f"not repaired: {part}": reason for part, reason in result.unrepaired.items()}
    facts(pairs)
    if result.dry_run and result.found:
        out.print(f"  [yellow]Nothing was changed. Repair: {_command('reconcile', name)}[/yellow]")
    if result.removed:
        out.print(f"  {count(result.removed, 'orphan record')} removed")
    if result.enqueued:
        rows = count(result.enqueued, "row")
        out.print(f"  {rows} enqueued. Embed: {_command('backfill', name)}")
    if result.stopped and result.last_key is not None:
        out.print(f"  Continue with: --after {shlex.quote(result.last_key)}", markup=False)


def _command(*words: str) -> str:
    """Return a call of `backline` for a line with markup."""
    return escape(command(*words))
