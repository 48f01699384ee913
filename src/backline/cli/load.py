"""The command `load`: a file into a table."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from backline import config, loading, wiring
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import count, emit, err, out, say
from backline.loading import Dialect
from backline.loading.source import Progress

File = Annotated[
    Path,
    typer.Argument(
        help=".csv (with a header), .tsv, .json, .jsonl, .ndjson or .parquet, each also with .gz "
        "or .zst. A hyphen is standard input."
    ),
]
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
Vectors = Annotated[
    str | None,
    typer.Option(
        "--vectors",
        metavar="FIELD",
        show_default=False,
        help="Field with the vector of each record, a list of numbers. A new table gets a column "
        "of type vector for it. To keep the vectors, declare the table with add --adopt.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        show_default=False,
        help="csv, tsv, json (JSONL too) or parquet. Default: by the name of the file; by its "
        "content for standard input.",
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        "--delimiter",
        metavar="CHARACTER",
        show_default=False,
        help="Between the fields of a CSV file; tab is a name. Default: the one of , ; tab | that "
        "gives each record as many fields as the header.",
    ),
]
Quote = Annotated[
    str | None,
    typer.Option(
        "--quote",
        metavar="CHARACTER",
        show_default=False,
        help='Around a field of a CSV file; none is a name. Default: ".',
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        metavar="NAME",
        show_default=False,
        help="Of a text file. Default: by its byte order mark; else UTF-8, or Windows-1252 for "
        "CSV in no UTF-8.",
    ),
]
Compression = Annotated[
    str | None,
    typer.Option(
        "--compression",
        metavar="NAME",
        show_default=False,
        help="none, gzip or zstd. Default: by the first bytes of the file.",
    ),
]


@database_options()
def load(
    file: File,
    table: Table,
    key: Key = None,
    vectors: Vectors = None,
    format_: Format = None,
    delimiter: Delimiter = None,
    quote: Quote = None,
    encoding: Encoding = None,
    compression: Compression = None,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Load CSV, JSON, JSONL or Parquet into a table, all records or none.

    Each value is the text of the file, read by the type of its column. Loading the same file again
    changes nothing, if it has a key.
    """
    dialect = Dialect(
        format_ if format_ not in ("jsonl", "ndjson") else "json",
        "\t" if delimiter == "tab" else delimiter,
        "" if quote == "none" else quote,
        encoding,
        compression,
    )
    settings = config.load(**flags)
    loaded = asyncio.run(_load(settings, file, table, key, dialect, vectors))
    if as_json:
        emit(loaded)
        return
    out.print(
        f"Loaded {count(loaded.records, 'record')} into {loaded.table}"
        f"{' (new table)' if loaded.created else ''}: {loaded.inserted:,} inserted, "
        f"{loaded.updated:,} updated, {loaded.unchanged:,} unchanged.",
        markup=False,
    )
    if not loaded.key:
        say("No field identifies a record: another load adds all again. Name one with --key.")


async def _load(
    settings: config.Settings,
    file: Path,
    table: str,
    key: str | None,
    dialect: Dialect,
    vectors: str | None,
) -> loading.Loaded:
    async with wiring.open_database(settings, migrated=False) as store:
        with _progress_bar() as progress:
            return await loading.load(
                store,
                file,
                table,
                key=key,
                dialect=dialect,
                vectors=vectors,
                on_dialect=partial(_say_dialect, file),
                on_progress=progress,
            )


def _say_dialect(file: Path, dialect: Dialect) -> None:
    say(f"{'Standard input' if str(file) == '-' else file}: {dialect}")


@contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """Yield a bar of the bytes that were read, on a terminal only."""
    if not err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    bar = Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=err, transient=True
    )
    task = bar.add_task("loading", total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)
