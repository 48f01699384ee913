"""The command `migrate`: bring the database's schema up to date."""

from __future__ import annotations

import asyncio

from backline import config, wiring
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import emit, out
from backline.config import Settings
from backline.postgres import migrate as library


@database_options()
def migrate(flags: Flags = NO_FLAGS, as_json: AsJson = False) -> None:
    """Apply the pending migrations."""
    applied = asyncio.run(_migrate(config.load(**flags)))
    if as_json:
        emit({"applied": applied})
        return
    if not applied:
        out.print("Nothing to do: every migration is applied.")
    for name in applied:
        out.print(f"applied {name}")


async def _migrate(settings: Settings) -> list[str]:
    async with wiring.open_database(settings, migrated=False) as store:
        return [f"{m.version}_{m.name}" for m in await library.apply(store.connector)]
