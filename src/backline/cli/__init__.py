"""The command line: thin. It parses, calls the library, and prints."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import structlog
import typer

from backline import demo, errors, search
from backline.backfill import verify
from backline.cli import data, find, models, work
from backline.cli.context import (
    AsJson,
    DatabaseUrl,
    DataDir,
    database,
    embedder_for,
    run,
    settings_of,
)
from backline.cli.output import emit, err, out, say
from backline.cli.report import show_backfill, show_verification
from backline.config import Settings

app = typer.Typer(
    name="backline",
    help="Keeps the embeddings behind your Postgres tables filled, fresh and searchable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(version("backline"))
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command("demo")
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
    async with database(settings) as store:
        say(f"Database: Postgres at {store.connector.where}")
        applied, loaded = await demo.seed(store)
        say(f"Schema: {'applied ' + ', '.join(applied) if applied else 'up to date'}")
        say(f"Knowledge base: {loaded.records:,} entries, {loaded.inserted:,} of them new")
        collection = await store.collection(demo.COLLECTION)
        report = await work.backfill_collection(store, settings, collection, None, quiet=quiet)
        checked = await verify(store, collection)
        async with embedder_for(settings, collection.model) as (embedder, _):
            hits = await search.semantic(store, collection, embedder, demo.QUESTION, 3)
    if not quiet:
        show_backfill(report)
        show_verification(collection.name, checked)
        out.print(f"\n[bold]backline search {demo.QUESTION!r}[/bold]")
        find.show_hits(hits)
    return {
        "complete": report.complete and checked.passed,
        "backfill": report.as_dict(),
        "verified": {"passed": checked.passed, "rows": checked.rows, "embedded": checked.embedded},
        "hits": [{"title": hit.row.get("title"), "score": hit.score} for hit in hits],
    }


app.command("migrate")(data.migrate_command)
app.command("add")(data.add)
app.command("drop")(data.drop)
app.command("load")(data.load)
app.command("backfill")(work.backfill)
app.command("sync")(work.sync)
app.command("status")(work.status)
app.command("verify")(work.verify_command)
app.add_typer(work.failures_app, name="failures")
app.add_typer(work.runs_app, name="runs")
app.command("search")(find.search_command)
app.add_typer(models.model_app, name="model")


def main() -> None:
    """Run the command line; errors that we raise on purpose become one line and an exit code."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        app()
    except errors.BacklineError as error:
        if "--json" in sys.argv:
            emit({"error": {"kind": type(error).__name__, "message": str(error)}})
        err.print(f"[red]error:[/red] {_escaped(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("Stopped.")
        sys.exit(130)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
