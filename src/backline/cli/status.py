"""The command `status`: coverage and queue of each collection."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import typer
from rich.markup import escape

from backline import config, wiring
from backline.cli.options import (
    NO_FLAGS,
    AsJson,
    CollectionName,
    Flags,
    StoreTransport,
    database_options,
)
from backline.cli.output import (
    coverage_line,
    duration,
    emit,
    facts,
    moment,
    out,
    pace,
    show_problems,
)
from backline.cli.report import LONG_TEXTS
from backline.collections import announced_end
from backline.config import Settings
from backline.errors import command
from backline.types import Collection, Coverage, Problem

# The default of p_exact of the SQL function `backline.problems`.
COMPARED_ROW_BY_ROW: Final = 10_000


@database_options(via=StoreTransport)
def status(
    collection: CollectionName = None, flags: Flags = NO_FLAGS, as_json: AsJson = False
) -> None:
    """Show coverage, queue, failures, lag, rate and ETA, and the announced end of a model.

    Exits with 1 if a collection has a problem that makes its coverage untrue.
    """
    result = asyncio.run(_status(config.load(**flags), collection))
    if as_json:
        emit({"collections": [_status_dict(each, coverage) for each, coverage in result]})
        _exit(result)
        return
    if not result:
        out.print(
            "No collections yet. Declare one: backline add TABLE --text '{column} …'", markup=False
        )
    for each, coverage in result:
        _show(each, coverage)
    _exit(result)


def _exit(result: list[tuple[Collection, Coverage]]) -> None:
    if any(coverage.problems for _, coverage in result):
        raise typer.Exit(1)


async def _status(settings: Settings, name: str | None) -> list[tuple[Collection, Coverage]]:
    async with wiring.open_job_store(settings) as store:
        selected = [await store.collection(name)] if name else await store.collections()
        return [(each, await store.checked_coverage(each)) for each in selected]


def _show(collection: Collection, coverage: Coverage) -> None:
    out.print(f"[bold]{escape(collection.name)}[/bold]  {coverage_line(coverage)}")
    pairs = {
        "table": collection.vector_column,
        "model": str(collection.model),
    }
    if collection.role == "filling":
        pairs["role"] = f"the next vectors of {collection.family}, which do not serve yet"
    elif collection.role == "retired":
        pairs["role"] = f"the former vectors of {collection.family}, " + (
            "without the edits since the cut-over" if collection.frozen else "kept fresh"
        )
    if collection.where_sql:
        pairs["condition"] = collection.where_sql
    if coverage.long:
        pairs["long texts"] = f"{coverage.long:,} {LONG_TEXTS[collection.long_text]}"
    if coverage.rows > COMPARED_ROW_BY_ROW:
        pairs["compared"] = f"a sample of the rows; every row: {_last_scan(collection)}"
    if coverage.pending:
        pairs["lag"] = f"{duration(coverage.lag_seconds)} (age of the oldest pending edit)"
    if coverage.workers:
        pairs["workers"] = str(coverage.workers)
        if coverage.remaining:
            pairs["pace"] = pace(coverage.rate, coverage.remaining)
    elif coverage.remaining:
        pairs["workers"] = f"none; to embed the rest, run: {command('backfill', collection.name)}"
    facts(pairs)
    show_problems([*coverage.problems, *_ends(collection)])


def _ends(collection: Collection) -> list[Problem]:
    end = announced_end(collection, datetime.now(UTC).date())
    return [] if end is None else [end]


def _last_scan(collection: Collection) -> str:
    if collection.scanned_at is None:
        return f"not yet, see: {command('reconcile', collection.name)}"
    return f"{moment(collection.scanned_at)}, by: {command('reconcile', collection.name)}"


def _status_dict(collection: Collection, coverage: Coverage) -> dict[str, Any]:
    return {
        "collection": collection.name,
        "table": collection.table,
        "role": collection.role,
        "frozen": collection.frozen,
        "model": asdict(collection.model),
        **asdict(coverage),
        "missing": coverage.missing,
        "empty": coverage.empty,
        "coverage": coverage.ratio,
        "complete": coverage.complete,
        "long_text": collection.long_text,
        "eta_seconds": coverage.eta_seconds,
        "scanned_at": collection.scanned_at,
        "model_end": next((asdict(each) for each in _ends(collection)), None),
    }
