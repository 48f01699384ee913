"""The table of commands. A command's module is imported when the command runs, not before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

START: Final = "Start here"
TABLES: Final = "Tables and collections"
EMBED: Final = "Embed and verify"
SEARCH: Final = "Search"
SERVE: Final = "Serve"


class Command(NamedTuple):
    """A line of the overview, and the `module:name` in `backline.cli` that implements it."""

    target: str
    panel: str
    summary: str


COMMANDS: Final = {
    "demo": Command(
        "demo:demo", START, "Load the knowledge base, embed it, verify it and search it."
    ),
    "config": Command("config:config", START, "Show the settings and where each value comes from."),
    "doctor": Command(
        "doctor:examine",
        START,
        "Check connection, rights, schema, indexes, models, disk and clock, with remedies.",
    ),
    "model": Command("model:app", START, "List models, download weights, change a model."),
    "migrate": Command(
        "migrate:migrate", TABLES, "Apply the pending migrations, and repair the schema."
    ),
    "add": Command(
        "collections:add", TABLES, "Declare a table for embedding and follow its edits."
    ),
    "apply": Command(
        "apply:apply", TABLES, "Declare the collections of a file, and change those that differ."
    ),
    "where": Command("collections:where", TABLES, "Show or change which rows a collection embeds."),
    "drop": Command("collections:drop", TABLES, "Undo add and keep the table."),
    "load": Command(
        "load:load", TABLES, "Load CSV, JSON, JSONL or Parquet into a table, all records or none."
    ),
    "backfill": Command(
        "backfill:backfill", EMBED, "Embed every row with a missing or outdated vector."
    ),
    "sync": Command("sync:sync", EMBED, "Follow live edits and embed each one, until stopped."),
    "status": Command(
        "status:status",
        EMBED,
        "Show coverage, queue, failures, lag, rate and ETA, and the announced end of a model.",
    ),
    "verify": Command(
        "verify:verify", EMBED, "Check every stored vector against its row and model."
    ),
    "reconcile": Command(
        "reconcile:reconcile", EMBED, "Find and repair rows that the triggers missed."
    ),
    "failures": Command("failures:app", EMBED, "Dead letters: rows that failed permanently."),
    "runs": Command("runs:app", EMBED, "Past and current backfills."),
    "search": Command("search:search", SEARCH, "Find the rows that match a query, best first."),
    "suggest": Command(
        "suggest:suggest", SEARCH, "Rank advice for a question from the knowledge base."
    ),
    "index": Command(
        "index:index",
        SEARCH,
        "Build the missing indexes for search: keywords, and HNSW for large tables.",
    ),
    "eval": Command(
        "eval:evaluate",
        SEARCH,
        "Measure search on judged queries: nDCG@10, recall@100, MRR@10, latency.",
    ),
    "queries": Command(
        "queries:queries",
        SEARCH,
        "List the search queries that are kept of a collection, or delete them.",
    ),
    "serve": Command("serve:serve", SERVE, "Serve the HTTP API, the WebSocket and the studio."),
    "keys": Command("keys:app", SERVE, "Keys of the server: names, roles and expiry."),
}


FAILED: Final = "the database or the provider failed"
INCOMPLETE: Final = {
    "demo": "rows failed or remain",
    "migrate": "damage remains that migrate cannot repair",
    "backfill": "rows failed or remain, or it was stopped. A run that reached --limit without a "
    "failure is a success",
    "status": "a collection has a problem that makes its coverage untrue",
    "verify": "a row has no valid vector",
    "doctor": "a check failed",
    "reconcile": "drift remains, as after a dry run that found any",
    "runs watch": "the run was cancelled, was interrupted, or does not exist",
    "runs cancel": "the run has ended, or does not exist",
}
"""What exit code 1 means, for the commands that use it for a result."""


class LazyCommands(Mapping[str, Any]):
    """The commands by name; reading one imports its module."""

    def __getitem__(self, name: str) -> Any:
        return load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class LazyGroup(TyperGroup):
    """Lists the commands from `COMMANDS` and imports the one that runs."""

    after_import: Callable[[], None] | None = None

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = LazyCommands()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a placeholder that is enough for the overview."""
        if cmd_name not in COMMANDS:
            return None
        _, panel, summary = COMMANDS[cmd_name]
        return TyperCommand(cmd_name, help=summary, rich_help_panel=panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that the arguments name."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, placeholder, rest
        command = self.commands[name]
        if self.after_import is not None:
            self.after_import()
        return name, command, rest


@cache
def load(name: str) -> Any:
    """Import a command's module; return the command, with `--verbose` and its exit codes."""
    module, attribute = COMMANDS[name].target.split(":")
    implementation = getattr(import_module(f"backline.cli.{module}"), attribute)
    if isinstance(implementation, typer.Typer):
        command = typer.main.get_command(implementation)
    else:
        command = _command_of(implementation)
    command.name = name
    _complete(command, name)
    return command


def _command_of(function: Callable[..., None]) -> Any:
    holder = typer.Typer(add_completion=False)
    holder.command()(function)
    return typer.main.get_command(holder)


def _complete(command: Any, name: str) -> None:
    """Add `--verbose` and the exit codes to a command, or to each one of a group."""
    if isinstance(command, TyperGroup):
        for each in command.commands.values():
            _complete(each, f"{name} {each.name}")
    else:
        command.params.append(_verbose_option())
        command.epilog = exit_codes(name)


def exit_codes(name: str) -> str:
    """Return what the exit codes of a command mean."""
    return (
        f"Exit code 0: success. 1: {INCOMPLETE.get(name, FAILED)}. 2: wrong usage or "
        "configuration. 130: ended by Ctrl-C before there was a result."
    )


@cache
def _verbose_option() -> Any:
    """Return the option as typer builds it, without relying on typer's private classes."""

    def options(
        verbose: Annotated[
            bool,
            typer.Option(
                "--verbose",
                "-v",
                callback=_log_to_console,
                expose_value=False,
                envvar="BACKLINE_VERBOSE",
                show_envvar=False,
                help="Log every step to standard error, and print the traceback of a bug. "
                "Environment: BACKLINE_VERBOSE.",
            ),
        ] = False,
    ) -> None: ...

    return _command_of(options).params[0]


def _log_to_console(value: bool) -> None:
    """Configure the log, unless the command has imported nothing that writes to it.

    The modules that log import structlog with the command. It costs 0.07 s, a fifth of `status`.
    """
    if value or "structlog" in sys.modules:
        from backline.cli.logs import log_to_console

        log_to_console(verbose=value)


app = typer.Typer(
    name="backline",
    cls=LazyGroup,
    help="Keeps the embeddings behind your Postgres tables filled, fresh and searchable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        from backline.cli import print_version

        print_version()
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def command_line(after_import: Callable[[], None] | None = None) -> Any:
    """Return the whole command line as one command.

    Args:
        after_import: called when the module of the command that runs has been imported.

    """
    group: Any = typer.main.get_command(app)
    group.after_import = after_import
    return group
