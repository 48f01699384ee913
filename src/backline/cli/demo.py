"""The command `demo`: the whole main job over the knowledge base that ships."""

from __future__ import annotations

from typing import Any

import typer

from backline import demo, search
from backline.backfill import BackfillReport
from backline.cli import find, work
from backline.cli.context import (
    AsJson,
    DatabaseUrl,
    DataDir,
    database,
    embedder_for,
    run,
    settings_of,
    where,
)
from backline.cli.output import count, emit, out, say
from backline.cli.report import show_backfill, show_verification
from backline.config import Settings
from backline.postgres.store import Store
from backline.types import Collection
from backline.verification import verify


def demo_command(
    database_url: DatabaseUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """The whole main job: migrate, load the knowledge base, backfill, verify, search once."""
    settings = settings_of(database_url=database_url, data_dir=data_dir)
    result = run(_demo(settings, quiet=as_json))
    if as_json:
        emit(result)
    if not result["complete"]:
        raise typer.Exit(1)


async def _demo(settings: Settings, *, quiet: bool) -> dict[str, Any]:
    async with database(settings, migrated=False) as store:
        say(f"Database: {where(settings, store)}")
        applied, loaded = await demo.seed(store)
        say(f"Schema: {'applied ' + ', '.join(applied) if applied else 'up to date'}")
        records = count(loaded.records, "entry", "entries")
        say(f"Knowledge base: {records}, {loaded.inserted:,} of them new")
        collection = await store.collection(demo.COLLECTION)
        report = await work.backfill_collection(store, settings, collection, None, quiet=quiet)
        if not quiet:
            show_backfill(report)
        if report.stopped_by:  # the report says so, and what to do
            return {"complete": False, "backfill": report.as_dict()}
        return await _prove(store, settings, collection, report, quiet=quiet)


async def _prove(
    store: Store, settings: Settings, collection: Collection, report: BackfillReport, *, quiet: bool
) -> dict[str, Any]:
    """Verify what the backfill stored, and ask it a question."""
    checked = await verify(store, collection)
    async with embedder_for(settings, collection.model) as (embedder, _):
        await search.ensure_index(store, collection)
        query = search.Query(demo.QUESTION, limit=3)
        hits = await search.search(store, collection, embedder, query)
    if not quiet:
        show_verification(collection.name, checked)
        out.print(f'\n[bold]backline search "{demo.QUESTION}"[/bold]')
        find.show_hits(hits)
    return {
        "complete": report.complete and checked.passed,
        "backfill": report.as_dict(),
        "verified": {"passed": checked.passed, "rows": checked.rows, "embedded": checked.embedded},
        "hits": [{"title": hit.row.get("title"), "score": hit.score} for hit in hits],
    }
