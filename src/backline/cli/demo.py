"""The command `demo`: every step of the main job on the knowledge base in the package."""

from __future__ import annotations

import asyncio
from importlib.resources import as_file, files
from typing import Any, Final

import typer

from backline import config, loading, search, wiring
from backline.backfill import BackfillReport
from backline.cli.backfill import backfill_collection
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import count, emit, out, say
from backline.cli.report import show_backfill, show_verification
from backline.cli.search import show_hits
from backline.config import Settings
from backline.errors import command
from backline.postgres import migrate
from backline.postgres.store import Store
from backline.types import Collection
from backline.verification import verify

QUESTION: Final = "my vocals sound muddy and boxy"
COLLECTION: Final = "music_knowledge"


@database_options()
def demo(flags: Flags = NO_FLAGS, as_json: AsJson = False) -> None:
    """Load the knowledge base, embed it, verify it and search it."""
    result = asyncio.run(_demo(config.load(**flags), quiet=as_json))
    if as_json:
        emit(result)
    if not result["complete"]:
        raise typer.Exit(1)


async def _demo(settings: Settings, *, quiet: bool) -> dict[str, Any]:
    async with wiring.open_database(settings, migrated=False) as store:
        say(f"Database: {wiring.describe_database(settings, store)}")
        applied, loaded = await seed(store)
        say(
            f"Schema: {count(len(applied), 'migration')} applied"
            if applied
            else "Schema: up to date"
        )
        entries = count(loaded.records, "entry", "entries")
        say(f"Knowledge base: {entries}, {loaded.inserted:,} new")
        collection = await store.collection(COLLECTION)
        report = await backfill_collection(store, settings, collection, None, quiet=quiet)
        if not quiet:
            show_backfill(report)
        if report.stopped_by:  # the report has the reason and the next step
            return {"complete": False, "backfill": report.as_dict()}
        return await _verify_and_search(store, settings, collection, report, quiet=quiet)


async def seed(store: Store) -> tuple[list[str], loading.Loaded]:
    """Migrate the database and load the knowledge base. A second call changes nothing.

    Returns:
        the names of the applied migrations, and the result of loading.

    """
    applied = await migrate.apply(store.connector, music=True)
    source = files("backline.data").joinpath("music_knowledge.jsonl")
    with as_file(source) as file:
        loaded = await loading.load(store, file, f"public.{COLLECTION}")
    return [migration.name for migration in applied], loaded


async def _verify_and_search(
    store: Store, settings: Settings, collection: Collection, report: BackfillReport, *, quiet: bool
) -> dict[str, Any]:
    verification = await verify(store, collection)
    async with wiring.embedder_for(settings, collection.model, say) as (embedder, _):
        await search.ensure_index(store, collection)
        hits = await search.search(store, collection, embedder, search.Query(QUESTION, limit=3))
    if not quiet:
        show_verification(collection.name, verification)
        out.print(f"\n[bold]{command('search', QUESTION)}[/bold]")
        show_hits(hits)
    return {
        "complete": report.complete and verification.passed,
        "backfill": report.as_dict(),
        "verified": {
            "passed": verification.passed,
            "rows": verification.rows,
            "embedded": verification.embedded,
        },
        "hits": [{"title": hit.row.get("title"), "score": hit.score} for hit in hits],
    }
