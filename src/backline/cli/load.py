"""The command `load`: a file into a table."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from backline import config, loading, wiring
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import count, emit, out
from backline.config import Settings

File = Annotated[Path, typer.Argument(help=".jsonl, .ndjson, .csv (with a header) or .parquet.")]
Table = Annotated[
    str,
    typer.Option(
        "--table",
        metavar="TABLE",
        help="The table, as name or schema.name; created if it is missing.",
        show_default=False,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="FIELD",
        show_default=False,
        help="Field that identifies a record. Default: the table's primary key, or the file's "
        "id, _id, key or uuid.",
    ),
]


@database_options()
def load(
    file: File,
    table: Table,
    key: Key = None,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Load JSONL, CSV or Parquet into a table, all records or none.

    Loading the same file again changes nothing.
    """
    loaded = asyncio.run(_load(config.load(**flags), file, table, key))
    if as_json:
        emit(loaded)
        return
    out.print(
        f"Loaded {count(loaded.records, 'record')} into {loaded.table}"
        f"{' (new table)' if loaded.created else ''}: {loaded.inserted:,} inserted, "
        f"{loaded.updated:,} updated, {loaded.unchanged:,} unchanged.",
        markup=False,
    )


async def _load(settings: Settings, file: Path, table: str, key: str | None) -> loading.Loaded:
    async with wiring.open_database(settings, migrated=False) as store:
        return await loading.load(store, file, table, key=key)
