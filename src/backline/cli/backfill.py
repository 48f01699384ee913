"""The command `backfill`: embed what is missing, or estimate what that would take."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from backline import config, estimation, wiring
from backline.backfill import Backfill, BackfillReport
from backline.cli.options import (
    NO_FLAGS,
    AsJson,
    CollectionName,
    EmbeddingTransport,
    Flags,
    Workers,
    database_options,
)
from backline.cli.output import emit, say
from backline.cli.progress import BackfillProgress
from backline.cli.report import show_backfill, show_preview
from backline.cli.signals import stopping
from backline.collections import check
from backline.config import Settings
from backline.store import JobStore
from backline.types import Collection

BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Largest number of texts in one request. Raise it for a distant provider, lower "
        "it for tight rate limits. Default: 50, or 512 for a local model. Environment: "
        "BATCH_SIZE.",
        min=1,
        max=2048,
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        help="Stop after this many rows, for a trial run. Default: all rows.",
        min=1,
        show_default=False,
    ),
]
BuildIndex = Annotated[
    bool,
    typer.Option(
        "--index/--no-index",
        help="After a complete backfill, build the HNSW index of a table with 10,000 rows or "
        "more that has none. --no-index leaves it to: backline index.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only estimate rows, tokens, duplicate texts, price and time. Nothing is sent "
        "and nothing is spent.",
    ),
]


@database_options(via=EmbeddingTransport)
def backfill(
    collection: CollectionName = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    limit: Limit = None,
    index: BuildIndex = True,
    dry_run: DryRun = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Embed every row with a missing or outdated vector.

    Stop it at any time and run it again: it continues with the rows that are left.
    """
    settings = config.load(**flags, batch_size=batch_size, workers=workers)
    if dry_run:
        preview = asyncio.run(_preview(settings, collection))
        emit(preview) if as_json else show_preview(preview)
        return
    report = asyncio.run(_backfill(settings, collection, limit, index=index, quiet=as_json))
    if as_json:
        emit(report.as_dict())
    else:
        show_backfill(report)
    if not (report.complete or (limit is not None and not report.failed and not report.stopped_by)):
        raise typer.Exit(1)


async def _preview(settings: Settings, name: str | None) -> estimation.Preview:
    async with wiring.open_job_store(settings) as store:
        collection = await store.collection(name)
        check(collection, collection.model)
        async with wiring.embedder_for(settings, collection.model, say) as (embedder, _):
            return await estimation.estimate(store, collection, embedder)


async def _backfill(
    settings: Settings, name: str | None, limit: int | None, *, index: bool, quiet: bool
) -> BackfillReport:
    async with wiring.open_job_store(settings) as store:
        collection = await store.collection(name)
        return await backfill_collection(
            store, settings, collection, limit, index=index, quiet=quiet
        )


async def backfill_collection(
    store: JobStore, settings: Settings, collection: Collection, limit: int | None, *, quiet: bool,
    index: bool = True,
) -> BackfillReport:  # fmt: skip
    """Run one backfill with progress on standard error; Ctrl-C stops it cleanly."""
    check(collection, collection.model)
    async with wiring.worker_parts(settings, collection, limit, say) as parts:
        run = Backfill(
            store,
            collection,
            None,
            parts.limiter,
            parts.options,
            wiring.shown_settings(settings, parts.options),
            build_index=index,
            handler=parts.handler,
        )
        with stopping(run.stop), BackfillProgress(quiet=quiet) as progress:
            return await run.run(progress, say)
