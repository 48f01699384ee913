"""The command `migrate`: bring the database's schema up to date."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from backline import config, wiring
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import emit, out
from backline.config import Settings
from backline.postgres import migrate as library

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
    """Apply the pending migrations."""
    applied = asyncio.run(_migrate(config.load(**flags), music=music, published=published))
    if as_json:
        emit({"applied": applied})
        return
    if not applied:
        out.print("Nothing to do: every migration is applied.")
    for name in applied:
        out.print(f"applied {name}")


async def _migrate(settings: Settings, *, music: bool, published: bool) -> list[str]:
    async with wiring.open_database(settings, migrated=False) as store:
        applied = await library.apply(store.connector, music=music, published=published)
        return [f"{m.version}_{m.name}" for m in applied]
