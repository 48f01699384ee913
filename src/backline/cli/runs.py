"""The commands `runs list`, `watch` and `cancel`: past and current backfills."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer

from backline import config, errors, wiring
from backline.cli.options import (
    NO_FLAGS,
    AsJson,
    CollectionName,
    Flags,
    StoreTransport,
    database_options,
)
from backline.cli.output import count, duration, emit, moment, out, table
from backline.cli.progress import BackfillProgress
from backline.config import Settings
from backline.store import JobStore
from backline.types import RunRecord

app = typer.Typer(help="Past and current backfills.", no_args_is_help=True, add_completion=False)

RunNumber = Annotated[int, typer.Argument(metavar="RUN", help="The run's number.")]


@app.command("list")
@database_options(via=StoreTransport)
def list_runs(
    collection: CollectionName = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", help="Largest number of runs to list.", min=1)
    ] = 20,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """List the newest runs with their progress."""
    records = asyncio.run(_list(config.load(**flags), collection, limit))
    if as_json:
        emit({"runs": [asdict(record) for record in records]})
        return
    if not records:
        out.print("No runs yet. Start one: backline backfill")
        return
    table(
        ("run", "collection", "state", "embedded", "reused", "failed", "time", "started"),
        (
            (r.id, r.collection, r.state, f"{r.embedded:,}", f"{r.reused:,}", f"{r.failed:,}",
             duration(r.seconds), moment(r.started_at))
            for r in records
        ),
    )  # fmt: skip


async def _list(settings: Settings, name: str | None, limit: int) -> list[RunRecord]:
    async with wiring.open_job_store(settings) as store:
        collection = await store.collection(name) if name else None
        return await store.runs(collection, limit=limit)


@app.command("watch")
@database_options(via=StoreTransport)
def watch_run(run_id: RunNumber, flags: Flags = NO_FLAGS) -> None:
    """Show the progress of a run in another process until it ends."""
    record = asyncio.run(_watch(config.load(**flags), run_id))
    out.print(f"Run {record.id}: {record.state}, {count(record.embedded, 'row')} embedded.")
    if record.state != "completed":
        raise typer.Exit(1)


async def _watch(settings: Settings, run_id: int) -> RunRecord:
    async with wiring.open_job_store(settings) as store:
        with BackfillProgress(quiet=False) as progress:
            while True:
                record = await _find_run(store, run_id)
                collection = await store.collection(record.collection)
                progress(record, await store.coverage(collection))
                if record.state not in ("running", "cancelling"):
                    return record
                with suppress(errors.ReadOnlyError):
                    await store.release_dead_workers(collection)
                await asyncio.sleep(0.5)


@app.command("cancel")
@database_options(via=StoreTransport)
def cancel_run(run_id: RunNumber, flags: Flags = NO_FLAGS, as_json: AsJson = False) -> None:
    """Stop a run after its requests in flight. Resume with: backline backfill."""
    cancelling = asyncio.run(_cancel(config.load(**flags), run_id))
    if as_json:
        emit({"run": run_id, "cancelling": cancelling})
    else:
        out.print(f"Run {run_id} is {'stopping' if cancelling else 'not running'}.")
    if not cancelling:
        raise typer.Exit(1)


async def _cancel(settings: Settings, run_id: int) -> bool:
    async with wiring.open_job_store(settings) as store:
        await _find_run(store, run_id)
        return await store.cancel_run(run_id)


async def _find_run(store: JobStore, run_id: int) -> RunRecord:
    records = await store.runs(run=run_id)
    if not records:
        raise errors.RunNotFoundError(f"There is no run {run_id}. See: backline runs list.")
    return records[0]
