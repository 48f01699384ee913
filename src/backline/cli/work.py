"""Commands that embed and prove it: backfill, sync, status, verify, failures, runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer

from backline import errors, estimation
from backline.backfill import Backfill, BackfillReport
from backline.cli import entry
from backline.cli.context import (
    AsJson,
    CollectionName,
    DatabaseUrl,
    DataDir,
    database,
    embedder_for,
    on_collection,
    run,
    settings_of,
)
from backline.cli.output import (
    BackfillProgress,
    count,
    coverage_line,
    duration,
    emit,
    facts,
    out,
    say,
    table,
)
from backline.cli.report import LONG_TEXTS, show_backfill, show_reconciled, show_verification
from backline.cli.via import Via, ViaAll, job_store, on_job_store, workshop
from backline.collections import check
from backline.config import Settings
from backline.postgres.store import Store
from backline.reconcile import Reconciled, Reconciliation
from backline.store import JobStore
from backline.sync import Sync
from backline.types import Collection, Coverage
from backline.verification import verify
from backline.wiring import shown_settings, worker_options

failures_app = typer.Typer(
    help="The dead letters: rows that failed for good.", no_args_is_help=True
)
runs_app = typer.Typer(help="Past and present backfills.", no_args_is_help=True)


Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="Requests in flight at once; default 2 for local and hash models, 8 for a provider. "
        "Environment: BACKLINE_WORKERS.",
        min=1,
        max=256,
        show_default=False,
    ),
]


def backfill(
    collection: CollectionName = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            help="Texts a request, at most. Raise it where the provider is far away, lower it "
            "where its limits are tight; default 50, for a local model 512. Environment: "
            "BATCH_SIZE.",
            min=1,
            max=2048,
            show_default=False,
        ),
    ] = None,
    workers: Workers = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            help="Embed at most this many rows, then stop: a trial run. Default: all.",
            min=1,
            show_default=False,
        ),
    ] = None,
    index: Annotated[
        bool,
        typer.Option(
            "--index/--no-index",
            help="Build the vectors' HNSW index once the table is filled, where it has 10,000 "
            "rows or more and none yet. --no-index leaves it to: backline index.",
        ),
    ] = True,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what it would take: rows, tokens, duplicate texts, price, time. "
            "Nothing is sent and nothing is spent.",
        ),
    ] = False,
    via: ViaAll = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Embed every row whose vector is missing or out of date. Stop it and run it again at will."""
    settings = settings_of(
        database_url=database_url, data_dir=data_dir, batch_size=batch_size, workers=workers,
        via=via,
    )  # fmt: skip
    if dry_run:
        _show_preview(run(_preview(settings, collection)), as_json=as_json)
        return
    report = run(_backfill(settings, collection, limit, index=index, quiet=as_json))
    if as_json:
        emit(report.as_dict())
    else:
        show_backfill(report)
    if not (report.complete or (limit is not None and not report.failed and not report.stopped_by)):
        raise typer.Exit(1)


async def _backfill(
    settings: Settings, name: str | None, limit: int | None, *, index: bool, quiet: bool
) -> BackfillReport:
    async with job_store(settings) as store:
        collection = await store.collection(name)
        return await backfill_collection(
            store, settings, collection, limit, index=index, quiet=quiet
        )


async def backfill_collection(
    store: JobStore, settings: Settings, collection: Collection, limit: int | None, *, quiet: bool,
    index: bool = True,
) -> BackfillReport:  # fmt: skip
    """One backfill with progress on standard error; Ctrl-C ends it in good order."""
    check(collection, collection.model)
    async with workshop(settings, collection, limit) as shop:
        work = Backfill(
            store,
            collection,
            None,
            shop.limiter,
            shop.options,
            shown_settings(settings, shop.options),
            build_index=index,
            handler=shop.handler,
        )
        with stopping(work.stop), BackfillProgress(quiet=quiet) as progress:
            return await work.run(progress, say)


@contextmanager
def stopping(stop: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop in good order; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    asked: list[int] = []

    def on_signal(name: str) -> None:
        asked.append(1)
        if len(asked) == 1:
            say("Stopping: finishing what is in flight. Press Ctrl-C again to end at once.")
            stop(f"stopped by {name}")
        elif len(asked) == 2:
            # Whatever does not unwind within a moment, such as a thread that embeds, is left
            # behind; the next run finds the lease expired or its connection gone.
            entry.end_soon()
            raise KeyboardInterrupt

    handled = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
    for number, name in handled.items():
        loop.add_signal_handler(number, on_signal, name)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGTERM, entry.terminated)


async def _preview(settings: Settings, name: str | None) -> estimation.Preview:
    async with job_store(settings) as store:
        collection = await store.collection(name)
        check(collection, collection.model)
        async with embedder_for(settings, collection.model) as (embedder, _):
            return await estimation.estimate(store, collection, embedder)


def _show_preview(found: estimation.Preview, *, as_json: bool) -> None:
    if as_json:
        emit(found)
        return
    out.print(f"[bold]A backfill of {found.collection} would take[/bold] (nothing was spent)")
    facts(
        {
            "model": found.model,
            "rows": f"{found.due:,} of {found.rows:,} are due",
            "texts": f"{found.unique:,} to embed; {found.duplicates:,} duplicates and "
            f"{found.cached:,} known vectors cost nothing",
            "tokens": f"{found.tokens:,}"
            + (
                f", {count(found.long, 'text')} longer than the model reads: "
                f"{LONG_TEXTS[found.long_text]}"
                if found.long
                else ""
            ),
            "price": "unknown" if found.dollars is None else f"${found.dollars:,.4f}",
            "time": f"{duration(found.seconds)} ({found.time_basis})",
        }
    )


def sync(
    collection: CollectionName = None,
    workers: Workers = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Follow live edits, embedding each as it comes, until stopped."""
    settings = settings_of(database_url=database_url, data_dir=data_dir, workers=workers)
    run(_sync(settings, collection))


async def _sync(settings: Settings, name: str | None) -> None:
    async with database(settings) as store:
        collection = await store.collection(name)
        check(collection, collection.model)
        async with embedder_for(settings, collection.model) as (embedder, limiter):
            options = worker_options(settings, collection.model)
            following = Sync(store, collection, embedder, limiter, options)
            say(f"Following {collection.name} ({collection.model}). Stop with Ctrl-C.")
            with stopping(following.stop):
                await following.run()
            say(f"Stopped; {count(following.processed, 'row')} settled.")


def status(
    collection: CollectionName = None,
    via: Via = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Coverage, queue, failures, lag, rate and ETA, straight from the database."""
    settings = settings_of(database_url=database_url, data_dir=data_dir, via=via)
    found = run(_status(settings, collection))
    if as_json:
        emit({"collections": [_status_dict(c, v) for c, v in found]})
        return
    if not found:
        out.print(
            "No collections yet. Declare one: backline add TABLE --text '{column} …'", markup=False
        )
    for each, coverage in found:
        out.print(f"[bold]{each.name}[/bold]  {coverage_line(coverage)}")
        pairs = {"table": f"{each.table}.{each.embedding_column}", "model": str(each.model)}
        if coverage.long:
            pairs["long texts"] = f"{coverage.long:,} {LONG_TEXTS[each.long_text]}"
        if coverage.pending:
            pairs["lag"] = f"{duration(coverage.lag_seconds)} (age of the oldest pending edit)"
            pairs["rate"] = f"{coverage.rate:,.0f} rows/s by {coverage.workers} workers"
            pairs["ETA"] = duration(coverage.eta_seconds)
        facts(pairs)


async def _status(settings: Settings, name: str | None) -> list[tuple[Collection, Coverage]]:
    async with job_store(settings) as store:
        wanted = [await store.collection(name)] if name else await store.collections()
        return [(each, await store.coverage(each)) for each in wanted]


def _status_dict(collection: Collection, coverage: Coverage) -> dict[str, Any]:
    return {
        "collection": collection.name,
        "table": collection.table,
        "model": asdict(collection.model),
        **asdict(coverage),
        "missing": coverage.missing,
        "coverage": coverage.ratio,
        "complete": coverage.complete,
        "long_text": collection.long_text,
        "eta_seconds": coverage.eta_seconds,
    }


def verify_command(
    collection: CollectionName = None,
    via: Via = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check every row: right dimensions, finite, unit length, of the current text and model."""
    settings = settings_of(database_url=database_url, data_dir=data_dir, via=via)

    async def act(store: JobStore, found: Collection) -> tuple[str, Any]:
        check(found, found.model, to="read")
        return found.name, await verify(store, found)

    name, result = run(on_job_store(settings, collection, act))
    if as_json:
        emit({"collection": name, "passed": result.passed, **asdict(result)})
    else:
        show_verification(name, result)
    if not result.passed:
        raise typer.Exit(1)


def reconcile_command(
    collection: CollectionName = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is wrong; change nothing.")
    ] = False,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="KEY",
            help="Go on after this row, which a reconciliation that was stopped names.",
            show_default=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Find and repair what no trigger saw: loads with triggers off, restores, edited vectors."""
    settings = settings_of(database_url=database_url, data_dir=data_dir)

    async def act(store: Store, found: Collection) -> Reconciled:
        work = Reconciliation(store, found, dry_run=dry_run)
        with stopping(work.stop):
            return await work.run(after)

    result = run(on_collection(settings, collection, act))
    if as_json:
        emit({**asdict(result), "sound": result.sound})
    else:
        show_reconciled(result)
    if not result.sound:
        raise typer.Exit(1)


# --- dead letters ---

Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="Only this row; may be given several times. Default: all.",
        show_default=False,
    ),
]


@failures_app.command("list")
def failures_list(
    collection: CollectionName = None,
    via: Via = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the dead letters with the provider's own words."""
    settings = settings_of(database_url=database_url, data_dir=data_dir, via=via)

    async def act(store: JobStore, found: Collection) -> tuple[str, list[Any]]:
        return found.name, [failure async for failure in store.failures(found)]

    name, found = run(on_job_store(settings, collection, act))
    if as_json:
        emit({"collection": name, "failures": [asdict(failure) for failure in found]})
        return
    if not found:
        out.print(f"No dead letters in {name}.")
        return
    table(
        ("key", "kind", "attempts", "failed at", "error"),
        ((f.key, f.kind, f.attempts, f"{f.failed_at:%Y-%m-%d %H:%M:%S}", f.error) for f in found),
    )
    say(f"{count(len(found), 'dead letter')}. Send again: backline failures retry {name}")


@failures_app.command("retry")
def failures_retry(
    collection: CollectionName = None,
    key: Keys = None,
    via: Via = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put dead letters back into the queue; the next backfill or a running sync embeds them."""
    settings = settings_of(database_url=database_url, data_dir=data_dir, via=via)

    async def act(store: JobStore, found: Collection) -> tuple[str, int]:
        return found.name, await store.retry_failures(found, key)

    name, requeued = run(on_job_store(settings, collection, act))
    if as_json:
        emit({"collection": name, "requeued": requeued})
    elif requeued:
        out.print(
            f"{count(requeued, 'row')} pending again. Embed: backline backfill {name}", markup=False
        )
    else:
        out.print(_no_such_letters(name, key), markup=False)


@failures_app.command("drop")
def failures_drop(
    collection: CollectionName = None,
    key: Keys = None,
    via: Via = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Forget dead letters. Their rows stay without a vector, and the next backfill tries them."""
    settings = settings_of(database_url=database_url, data_dir=data_dir, via=via)

    async def act(store: JobStore, found: Collection) -> tuple[str, int]:
        return found.name, await store.drop_failures(found, key)

    name, dropped = run(on_job_store(settings, collection, act))
    if as_json:
        emit({"collection": name, "dropped": dropped})
    elif dropped:
        out.print(f"{count(dropped, 'dead letter')} dropped.", markup=False)
    else:
        out.print(_no_such_letters(name, key), markup=False)


def _no_such_letters(collection: str, keys: list[str] | None) -> str:
    of = f" of {', '.join(keys)}" if keys else ""
    return f"No dead letters{of} in {collection}. See: backline failures list {collection}"


# --- runs ---


@runs_app.command("list")
def runs_list(
    collection: CollectionName = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", help="How many, newest first.", min=1)
    ] = 20,
    via: Via = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the newest runs with their progress."""
    settings = settings_of(database_url=database_url, data_dir=data_dir, via=via)

    async def act() -> list[Any]:
        async with job_store(settings) as store:
            which = await store.collection(collection) if collection else None
            return await store.runs(which, limit=limit)

    found = run(act())
    if as_json:
        emit({"runs": [asdict(record) for record in found]})
        return
    if not found:
        out.print("No runs yet. Start one: backline backfill")
        return
    table(
        ("run", "collection", "state", "embedded", "reused", "failed", "time", "started"),
        (
            (r.id, r.collection, r.state, f"{r.embedded:,}", f"{r.reused:,}", f"{r.failed:,}",
             duration(r.seconds), f"{r.started_at:%Y-%m-%d %H:%M:%S}")
            for r in found
        ),
    )  # fmt: skip


@runs_app.command("watch")
def runs_watch(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="The run's number.")],
    via: Via = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Watch a run of another process until it ends."""
    settings = settings_of(database_url=database_url, data_dir=data_dir, via=via)

    async def act() -> Any:
        async with job_store(settings) as store:
            with BackfillProgress(quiet=False) as progress:
                while True:
                    record = await _one_run(store, run_id)
                    collection = await store.collection(record.collection)
                    progress(record, await store.coverage(collection))
                    if record.state not in ("running", "cancelling"):
                        return record
                    await store.release_dead_workers(collection)
                    await asyncio.sleep(0.5)

    record = run(act())
    out.print(f"Run {record.id}: {record.state}, {count(record.embedded, 'row')} embedded.")
    if record.state != "completed":
        raise typer.Exit(1)


async def _one_run(store: JobStore, run_id: int) -> Any:
    found = await store.runs(run=run_id)
    if not found:
        raise errors.UsageError(f"There is no run {run_id}. See: backline runs list.")
    return found[0]


@runs_app.command("cancel")
def runs_cancel(
    run_id: Annotated[int, typer.Argument(metavar="RUN", help="The run's number.")],
    via: Via = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask a run to stop; it finishes what is in flight. Resume with: backline backfill."""
    settings = settings_of(database_url=database_url, data_dir=data_dir, via=via)

    async def act() -> bool:
        async with job_store(settings) as store:
            await _one_run(store, run_id)
            return await store.cancel_run(run_id)

    asked = run(act())
    if as_json:
        emit({"run": run_id, "cancelling": asked})
    else:
        out.print(f"Run {run_id} is asked to stop." if asked else f"Run {run_id} is not running.")
    if not asked:
        raise typer.Exit(1)
