"""The command `reconcile`: find and repair drift between rows and vectors."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from backline import config, wiring
from backline.cli.options import NO_FLAGS, AsJson, CollectionName, Flags, database_options
from backline.cli.output import emit
from backline.cli.report import show_reconciled
from backline.cli.signals import stopping
from backline.config import Settings
from backline.reconcile import Reconciled, Reconciliation

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only report the drift; change nothing.")]
After = Annotated[
    str | None,
    typer.Option(
        "--after",
        metavar="KEY",
        help="Continue after this key, which a stopped reconciliation prints. Default: start "
        "at the first row.",
        show_default=False,
    ),
]
Published = Annotated[
    bool,
    typer.Option(
        "--published",
        help="Add the vector column to a table of a publication: its subscribers have it, or stop "
        "at the first change. Default: such a table is refused.",
    ),
]


@database_options()
def reconcile(
    collection: CollectionName = None,
    dry_run: DryRun = False,
    after: After = None,
    published: Published = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Find and repair rows that the triggers missed.

    Triggers miss loads with triggers disabled, restored dumps and vectors edited by hand.
    """
    result = asyncio.run(
        _reconcile(config.load(**flags), collection, after, dry_run=dry_run, published=published)
    )
    if as_json:
        emit({**asdict(result), "sound": result.sound})
    else:
        show_reconciled(result)
    if not result.sound:
        raise typer.Exit(1)


async def _reconcile(
    settings: Settings, name: str | None, after: str | None, *, dry_run: bool, published: bool
) -> Reconciled:
    async with wiring.open_database(settings) as store:
        collection = await store.collection(name)
        reconciliation = Reconciliation(store, collection, dry_run=dry_run, published=published)
        with stopping(reconciliation.stop):
            return await reconciliation.run(after)
