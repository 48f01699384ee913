"""The command `migrate`: bring the database's schema up to date."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from backline import config, wiring
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import emit, out
from backline.config import Settings
from backline.postgres import migrate as library
from backline.types import Problem

Music = Annotated[
    bool,
    typer.Option(
        "--music",
        help="Create the advice base too: the table and collection music_knowledge, empty, with "
        "its search functions. backline demo also fills it.",
    ),
]
Published = Annotated[
    bool,
    typer.Option(
        "--published",
        help="Migrate although a publication sends every new table: no subscriber can stop. "
        "Default: such a database is refused.",
    ),
]


@database_options()
def migrate(
    music: Music = False,
    published: Published = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Apply the pending migrations, and repair the schema.

    Restores the objects of schema backline that are missing or damaged, for example after the
    restore of a partial dump. Tables of yours are not changed.
    """
    applied, repaired, left = asyncio.run(
        _migrate(config.load(**flags), music=music, published=published)
    )
    if as_json:
        emit({"applied": applied, "repaired": _named(repaired), "problems": _named(left)})
    else:
        _show(applied, repaired, left)
    if left:
        raise typer.Exit(1)


def _show(applied: list[str], repaired: list[Problem], left: list[Problem]) -> None:
    if not (applied or repaired or left):
        out.print("Nothing to do: every migration is applied.")
    for name in applied:
        out.print(f"applied {name}")
    for each in repaired:
        out.print(f"repaired: {each.problem}", markup=False)
    for each in left:
        out.print(f"not repaired: {each.problem} {each.remedy}", markup=False)
    if {"table", "column", "trigger", "function"} & {each.kind for each in repaired}:
        out.print("Edits may have been missed. For each collection, run: backline reconcile")


def _named(problems: list[Problem]) -> list[dict[str, str]]:
    return [asdict(each) for each in problems]


async def _migrate(
    settings: Settings, *, music: bool, published: bool
) -> tuple[list[str], list[Problem], list[Problem]]:
    async with wiring.open_database(settings, migrated=False) as store:
        applied = await library.apply(store.connector, music=music, published=published)
        names = [f"{m.version}_{m.name}" for m in applied]
        return names, *await library.repair(store.connector)
