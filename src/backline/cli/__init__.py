"""The command line: thin. It parses, calls the library, and prints."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer

from backline import process
from backline.cli import config, data, demo, entry, find, models, serve, work

FIRST: Final = "Start here"
TABLES: Final = "Tables and collections"
WORK: Final = "Embed, and prove it"
READ: Final = "Search"
SERVE: Final = "Serve"

app = typer.Typer(
    name="backline",
    help="Keeps the embeddings behind your Postgres tables filled, fresh and searchable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("backline"))
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


app.command("demo", rich_help_panel=FIRST)(demo.demo_command)
app.command("config", rich_help_panel=FIRST)(config.config_command)
app.add_typer(models.model_app, name="model", rich_help_panel=FIRST)
app.command("migrate", rich_help_panel=TABLES)(data.migrate_command)
app.command("add", rich_help_panel=TABLES)(data.add)
app.command("drop", rich_help_panel=TABLES)(data.drop)
app.command("load", rich_help_panel=TABLES)(data.load)
app.command("backfill", rich_help_panel=WORK)(work.backfill)
app.command("sync", rich_help_panel=WORK)(work.sync)
app.command("status", rich_help_panel=WORK)(work.status)
app.command("verify", rich_help_panel=WORK)(work.verify_command)
app.command("reconcile", rich_help_panel=WORK)(work.reconcile_command)
app.add_typer(work.failures_app, name="failures", rich_help_panel=WORK)
app.add_typer(work.runs_app, name="runs", rich_help_panel=WORK)
app.command("search", rich_help_panel=READ)(find.search_command)
app.command("suggest", rich_help_panel=READ)(find.suggest_command)
app.command("index", rich_help_panel=READ)(find.index_command)
app.command("eval", rich_help_panel=READ)(find.eval_command)
app.command("serve", rich_help_panel=SERVE)(serve.serve_command)


def command() -> Any:
    """The whole command line as one command, as it is run and documented."""
    return entry.with_verbose(typer.main.get_command(app))


def main() -> None:
    """Run the command line and end the process with its exit code."""
    process.tune_garbage_collector()
    sys.exit(entry.run(command()))
