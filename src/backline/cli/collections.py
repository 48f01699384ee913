"""The commands `add` and `drop`: declare a table for embedding, and undo it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, get_args

import typer

from backline import config, declarations, errors, wiring
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import count, emit, out, say
from backline.config import Settings
from backline.declarations import Declaration
from backline.postgres import migrate
from backline.postgres.administration import Existing
from backline.postgres.store import Store
from backline.search import indexes
from backline.types import LongText, Model

Template = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="TEMPLATE",
        help="Template of a row's text with column names in braces, such as '{title} {body}'. "
        "{facts.brand} is a path into JSON, {sections[*].title} all matches of one, "
        "{body|strip_html|truncate:500} a column with filters: lower, upper, strip_html, "
        "strip_markdown, truncate. An empty value leaves out its separator; {{ and }} are literal "
        "braces.",
        show_default=False,
    ),
]
TextSql = Annotated[
    str | None,
    typer.Option(
        "--text-sql",
        metavar="EXPR",
        help="The text as an SQL expression over the row r, in place of --text, such as "
        "\"concat_ws(E'\\n', title, item_text(r))\". Its functions must be immutable.",
        show_default=False,
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="EXPR",
        help="Embed and find only the rows of this condition, an SQL expression over the row r, "
        "such as 'deleted_at is null'. Change it with: backline where. Default: every row.",
        show_default=False,
    ),
]
ModelSpec = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="local (384 dimensions, on this machine), openai (1536), openai/NAME@DIMENSIONS, "
        "or hash@DIMENSIONS (vectors without meaning, for trials). See: backline model list.",
    ),
]
Table = Annotated[str, typer.Argument(help="The table, as name or schema.name.")]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of the collection. Set it to embed one table twice. Default: the table's name.",
        show_default=False,
    ),
]
Key = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="COLUMN",
        help="Unique NOT NULL column that identifies a row; repeat it for a key of several "
        "columns. Default: the primary key.",
        show_default=False,
    ),
]
VectorColumn = Annotated[
    str,
    typer.Option(
        "--column", metavar="COLUMN", help="Column for the vectors; created if it is missing."
    ),
]
ColumnType = Annotated[
    str,
    typer.Option(
        "--column-type",
        metavar="TYPE",
        help="Type of a created column: vector, or halfvec (16-bit floats, half the space, and "
        "an index up to 4,000 dimensions instead of 2,000).",
    ),
]
LongTextPolicy = Annotated[
    str,
    typer.Option(
        "--long-text",
        metavar="POLICY",
        help="Handling of a text longer than the model's input. truncate: embed its beginning. "
        "average: embed all of it in parts and store their mean. reject: make the row a dead "
        "letter.",
    ),
]
Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        help="Text search configuration of Postgres for the keywords: english, german, simple "
        "(no stemming) and so on. Default: guessed from the first texts.",
        show_default=False,
    ),
]
LanguageColumn = Annotated[
    str | None,
    typer.Option(
        "--language-column",
        metavar="COLUMN",
        help="Column with the language of each row: a code such as de or pt-BR, or a name.",
        show_default=False,
    ),
]
Into = Annotated[
    str | None,
    typer.Option(
        "--into",
        metavar="NAME",
        help="Side table to make for the vectors, in the schema backline_vectors or in the one "
        "that the name has. Default: a column of the table.",
        show_default=False,
    ),
]
Partitions = Annotated[
    int,
    typer.Option(
        "--partitions",
        metavar="NUMBER",
        help="Partitions of the side table, by ranges of the present keys. Later keys go to the "
        "last one.",
    ),
]
Passages = Annotated[
    str,
    typer.Option(
        "--passages",
        metavar="UNIT",
        help="Split texts into passages, each with its own vector in a side table: auto (markdown "
        "where there are headings, else paragraphs), paragraphs, markdown, sentences or tokens. "
        "none: one vector a row.",
    ),
]
PassageTokens = Annotated[
    int | None,
    typer.Option(
        "--passage-tokens",
        metavar="TOKENS",
        help="Most tokens of a passage. Default: 256, or what the model reads if that is less.",
        show_default=False,
    ),
]
Overlap = Annotated[
    int,
    typer.Option(
        "--overlap",
        metavar="TOKENS",
        help="Tokens of the passage before that each passage repeats.",
    ),
]
Published = Annotated[
    bool,
    typer.Option(
        "--published",
        help="Declare a table of a publication: its subscribers have the vector column, or stop "
        "at the first change. Default: such a table is refused.",
    ),
]
Follow = Annotated[
    str | None,
    typer.Option(
        "--follow",
        metavar="COLUMN",
        help="Column that grows with every edit of a row, such as updated_at. It is polled instead "
        "of triggers, for views, foreign tables and tables of another owner; needs --into.",
        show_default=False,
    ),
]
Adopt = Annotated[
    bool,
    typer.Option(
        "--adopt",
        help="Keep the vectors that the column holds, if 200 texts that are embedded again agree "
        "with them. Run it again after an interruption.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace the vectors that the column holds."),
]


@database_options()
def add(
    table: Table,
    text: Template = None,
    model: ModelSpec = "local",
    text_sql: TextSql = None,
    where: Where = None,
    name: Name = None,
    key: Key = None,
    column: VectorColumn = "embedding",
    column_type: ColumnType = "vector",
    long_text: LongTextPolicy = "truncate",
    published: Published = False,
    into: Into = None,
    partitions: Partitions = 1,
    passages: Passages = "none",
    passage_tokens: PassageTokens = None,
    overlap: Overlap = 0,
    language: Language = None,
    language_column: LanguageColumn = None,
    follow: Follow = None,
    adopt: Adopt = False,
    overwrite: Overwrite = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Declare a table for embedding and follow its edits."""
    settings = config.load(**flags)
    if (text is None) == (text_sql is None):
        raise typer.BadParameter(
            "A row's text is a template or an SQL expression. Use one of --text and --text-sql."
        )
    if column_type not in ("vector", "halfvec"):
        raise errors.UsageError(f"--column-type is {column_type!r}; use vector or halfvec.")
    if adopt and (overwrite or into is not None or passages != "none"):
        raise errors.UsageError(
            "--adopt keeps vectors of a column: leave out --overwrite, --into and --passages."
        )
    declaration = Declaration(
        name=name or table, table=table, text=text, text_sql=text_sql, where=where,
        key=None if key is None else tuple(key), model=model, column=column,
        column_type=column_type, into=into, partitions=partitions, follow=follow, passages=passages,
        passage_tokens=passage_tokens, overlap=overlap, long_text=_policy(long_text),
        language=language, language_column=language_column, published=published,
    )  # fmt: skip
    added = asyncio.run(_add(settings, declaration, name, adopt=adopt, overwrite=overwrite))
    if as_json:
        emit(added)
        return
    out.print(
        f"Added {added['collection']}: {count(added['rows'], 'row')} of {added['table']}, text "
        f"{text or text_sql!r}, model {added['model']}, vectors in {added['vectors']}, "
        f"keywords in {added['language']}.",
        markup=False,
    )
    if "adopted" in added:
        out.print(_adoption_line(added), markup=False)
    out.print(f"Next: {errors.command('backfill', added['collection'])}", markup=False)


async def _add(
    settings: Settings, declaration: Declaration, name: str | None, *, adopt: bool, overwrite: bool
) -> dict[str, Any]:
    model = await wiring.resolve_model(settings, declaration.model)
    async with wiring.open_database(settings, migrated=False) as store:
        record = await store.find_table(declaration.table)
        parts = await declarations.parts(store, declaration, record["name"], model)
        applied = await migrate.apply(store.connector, published=declaration.published)
        if applied:
            say(f"Schema: {count(len(applied), 'migration')} applied")
        chosen = record["name"] if name is None else name
        adopted = {}
        if adopt:
            adopted = await _adopt(settings, store, chosen, record["oid"], **parts)
        else:
            existing: Existing = "overwrite" if overwrite else "refuse"
            await store.add_collection(chosen, record["oid"], existing=existing, **parts)
        collection = await store.collection(chosen)
        coverage = await store.coverage(collection)
        keywords = await indexes.keyword_index(store, collection)
        splitting = collection.splitting
        return {
            "collection": chosen, "table": collection.table, "rows": coverage.rows,
            "model": str(model), "vectors": collection.vector_column,
            "language": keywords.language.removeprefix("pg_catalog."),
            "long_text": collection.long_text,
            "passages": None if splitting is None else asdict(splitting), **adopted,
        }  # fmt: skip


async def _adopt(
    settings: Settings, store: Store, name: str, table: int, *, model: Model, **parts: Any
) -> dict[str, Any]:
    from backline import adoption  # imports modules that log

    async with wiring.embedder_for(settings, model, say) as (embedder, limiter):
        done = await adoption.adopt(
            store, embedder, limiter, name, table, give_up_after=settings.give_up_after, **parts
        )
    sample = done.agreement
    return {
        "held": done.held, "adopted": done.adopted,
        "compared": sample.compared if sample else 0, "agreeing": sample.agreeing if sample else 0,
    }  # fmt: skip


def _adoption_line(added: dict[str, Any]) -> str:
    sample = (
        f" ({added['agreeing']} of {added['compared']} texts embedded again agree)"
        if added["compared"]
        else ""
    )
    held = "" if added["held"] is None else f" of {count(added['held'], 'vector')}"
    return f"Adopted {added['adopted']:,}{held}{sample}. Other rows are due."


def _policy(text: str) -> LongText:
    for policy in get_args(LongText):
        if text == policy:
            return policy  # type: ignore[no-any-return]
    raise errors.UsageError(f"--long-text is {text!r}; use {', '.join(get_args(LongText))}.")


Collection = Annotated[str, typer.Argument(help="The collection to drop.")]
DropColumn = Annotated[
    bool,
    typer.Option("--column", help="Drop the column with its vectors too. Default: keep it."),
]


@database_options()
def drop(
    collection: Collection,
    column: DropColumn = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Undo add and keep the table.

    Removes the triggers and the collection's records. The vectors stay too, without --column.
    """
    kept = asyncio.run(_drop(config.load(**flags), collection, column=column))
    if as_json:
        emit({"dropped": collection, "column_dropped": column})
        return
    outcome = "was dropped with its vectors" if column else "and its vectors stay"
    out.print(f"Dropped the collection {collection}; {kept} {outcome}.", markup=False)


async def _drop(settings: Settings, name: str, *, column: bool) -> str:
    async with wiring.open_database(settings) as store:
        collection = await store.collection(name)
        await store.drop_collection(collection, drop_column=column)
        if collection.into is not None:
            return f"the side table {'.'.join(collection.into)}"
        return f"the column {collection.embedding_column}"


Condition = Annotated[
    str | None,
    typer.Argument(metavar="[EXPR]", help="The new condition. Default: show the present one."),
]
Everything = Annotated[bool, typer.Option("--none", help="Remove the condition: embed every row.")]


@database_options()
def where(
    collection: Annotated[str, typer.Argument(help="The collection.")],
    condition: Condition = None,
    everything: Everything = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Show or change which rows a collection embeds.

    Only rows that a change moves in or out are embedded or lose their vector.
    """
    if condition is not None and everything:
        raise errors.UsageError("A condition and --none exclude each other. Use one of them.")
    change = condition is not None or everything
    present, moved = asyncio.run(_where(config.load(**flags), collection, condition, change=change))
    if as_json:
        emit({"collection": collection, "where": present, "moved": moved})
        return
    rows = f"the rows where {present}" if present else "every row"
    out.print(f"{collection} embeds {rows}.", markup=False)
    if moved:
        next_step = errors.command("backfill", collection)
        out.print(f"{count(moved, 'row')} to update. Next: {next_step}", markup=False)


async def _where(
    settings: Settings, name: str, condition: str | None, *, change: bool
) -> tuple[str | None, int]:
    async with wiring.open_database(settings) as store:
        collection = await store.collection(name)
        moved = await store.set_where(collection, condition) if change else 0
        return (await store.collection(name)).where_sql, moved
