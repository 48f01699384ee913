"""Commands that declare and fill tables: migrate, add, drop, load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from backline import errors, loading
from backline.cli.context import AsJson, DatabaseUrl, DataDir, database, run, settings_of
from backline.cli.output import count, emit, out, say
from backline.collections import check_column
from backline.config import Settings
from backline.embedders.specs import describe, open_embedder
from backline.postgres import migrate
from backline.types import LongText, Model
from backline.wiring import embedder_options

Template = Annotated[
    str,
    typer.Option(
        "--text",
        metavar="TEMPLATE",
        help="How a row's text is made: column names in braces, for example '{title} {body}'. "
        "NULL reads as nothing; {{ and }} are literal braces.",
        show_default=False,
    ),
]
ModelSpec = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="local (384 dimensions, on this machine), openai (1536), openai/NAME@DIMENSIONS, "
        "or hash@DIMENSIONS (no meaning, for trying things out). See: backline model list.",
    ),
]


def migrate_command(
    database_url: DatabaseUrl = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Apply the migrations, or say that there is nothing to do."""
    applied = run(_migrate(settings_of(database_url=database_url, data_dir=data_dir)))
    if as_json:
        emit({"applied": applied})
        return
    if not applied:
        out.print("Nothing to do: every migration is applied.")
    for name in applied:
        out.print(f"applied {name}")


async def _migrate(settings: Settings) -> list[str]:
    async with database(settings, migrated=False) as store:
        return [f"{m.version}_{m.name}" for m in await migrate.apply(store.connector)]


def add(
    table: Annotated[str, typer.Argument(help="The table, as name or schema.name.")],
    text: Template,
    model: ModelSpec = "local",
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Name of the collection; default: the table's. Give one to embed a table twice.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="COLUMN",
            help="Unique NOT NULL column that tells rows apart; default: the primary key.",
            show_default=False,
        ),
    ] = None,
    column: Annotated[
        str,
        typer.Option(
            "--column", metavar="COLUMN", help="Column for the vectors; made where it is missing."
        ),
    ] = "embedding",
    column_type: Annotated[
        str,
        typer.Option(
            "--column-type",
            metavar="TYPE",
            help="Type of a column that is made: vector, or halfvec (16-bit floats, half the "
            "space, and an index up to 4,000 dimensions instead of 2,000).",
        ),
    ] = "vector",
    long_text: Annotated[
        str,
        typer.Option(
            "--long-text",
            metavar="POLICY",
            help="What becomes of a text that is longer than the model reads: truncate embeds its "
            "beginning; average embeds all of it, in parts, and stores their mean; reject sends it "
            "to the dead letters.",
        ),
    ] = "truncate",
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Declare a table for embedding; from now on its edits are followed."""
    settings = settings_of(database_url=database_url, data_dir=data_dir)
    if column_type not in ("vector", "halfvec"):
        raise errors.UsageError(f"--column-type is {column_type!r}; use vector or halfvec.")
    policy = _policy(long_text)
    added = run(_add(settings, table, text, model, name, key, column, column_type, policy))
    if as_json:
        emit(added)
        return
    out.print(
        f"Added {added['collection']}: {count(added['rows'], 'row')} of {added['table']}, text "
        f"{text!r}, by {added['model']} into the column {column}.",
        markup=False,
    )
    out.print(f"Next: backline backfill {added['collection']}", markup=False)


async def _add(
    settings: Settings, table: str, text: str, spec: str, name: str | None,
    key: str | None, column: str, column_type: str, long_text: LongText,
) -> dict[str, Any]:  # fmt: skip
    model = await model_of(settings, spec)
    async with database(settings, migrated=False) as store:
        for migration in await migrate.apply(store.connector, core_only=True):
            say(f"Schema: applied {migration.version}_{migration.name}")
        found = await store.find_table(table)
        chosen = name or found["name"]
        taken = [c for c in await store.collections() if c.name == chosen]
        if taken:
            raise errors.CollectionExistsError(
                f"There is a collection {chosen!r} on {taken[0].table} already. Forget it first: "
                f"backline drop {chosen}; or choose another --name."
            )
        there = await store.embedding_column(found["oid"], column)
        if there is not None:
            check_column(
                f"{found['schema']}.{found['name']}.{column}",
                *there,
                model,
                remedy="Put the vectors into a column of their own: "
                f"--column embedding_{model.dimensions}.",
            )
        await store.add_collection(
            chosen, found["oid"], key=key, template=text, column=column, model=model,
            column_type=column_type, long_text=long_text,
        )  # fmt: skip
        collection = await store.collection(chosen)
        coverage = await store.coverage(collection)
        return {
            "collection": chosen, "table": collection.table, "rows": coverage.rows,
            "model": str(model), "column": column, "long_text": long_text,
        }  # fmt: skip


def _policy(text: str) -> LongText:
    for policy in get_args(LongText):
        if text == policy:
            return policy  # type: ignore[no-any-return]
    raise errors.UsageError(f"--long-text is {text!r}; use {', '.join(get_args(LongText))}.")


async def model_of(settings: Settings, spec: str) -> Model:
    """What a spec names; opens the embedder only where its dimensions are not known otherwise."""
    known = describe(spec)
    if known is not None:
        return known
    embedder = await open_embedder(spec, embedder_options(settings))
    try:
        return embedder.model
    finally:
        await embedder.aclose()


def drop(
    collection: Annotated[str, typer.Argument(help="The collection to forget.")],
    column: Annotated[
        bool,
        typer.Option(
            "--column",
            help="Drop the column with its vectors as well; without it, they stay.",
        ),
    ] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Undo add: remove the triggers and all that is known of the collection; the table stays."""
    settings = settings_of(database_url=database_url, data_dir=data_dir)

    async def act() -> str:
        async with database(settings) as store:
            found = await store.collection(collection)
            await store.drop_collection(found, drop_column=column)
            return found.embedding_column

    kept = run(act())
    if as_json:
        emit({"dropped": collection, "column_dropped": column})
        return
    fate = "is dropped with its vectors" if column else "and its vectors stay"
    out.print(f"Dropped the collection {collection}; the column {kept} {fate}.", markup=False)


def load(
    file: Annotated[
        Path, typer.Argument(help=".jsonl, .ndjson, .csv (with a header) or .parquet.")
    ],
    table: Annotated[
        str,
        typer.Option(
            "--table",
            metavar="TABLE",
            help="The table, as name or schema.name; made where it does not exist.",
            show_default=False,
        ),
    ],
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="FIELD",
            show_default=False,
            help="The field that tells records apart; default: the table's primary key, or id, "
            "_id, key or uuid of the file.",
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Stream JSONL, CSV or Parquet into a table: all of it or nothing; again changes nothing."""
    settings = settings_of(database_url=database_url, data_dir=data_dir)

    async def act() -> loading.Loaded:
        async with database(settings, migrated=False) as store:
            return await loading.load(store, file, table, key=key)

    done = run(act())
    if as_json:
        emit(done)
        return
    out.print(
        f"Loaded {count(done.records, 'record')} into {done.table}"
        f"{' (new table)' if done.created else ''}: {done.inserted:,} inserted, "
        f"{done.updated:,} updated, {done.unchanged:,} unchanged.",
        markup=False,
    )
