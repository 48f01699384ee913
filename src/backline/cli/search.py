"""The command `search`, and how hits are printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.markup import escape

from backline import config, errors, wiring
from backline import search as library
from backline.cli.options import (
    NO_FLAGS,
    AsJson,
    Flags,
    InCollection,
    SearchMode,
    StoreTransport,
    database_options,
)
from backline.cli.output import count, emit, out, say
from backline.config import Settings
from backline.search import Mode, Query
from backline.search.indexes import note_missing_keywords
from backline.search.kept import Asked, keep_one
from backline.search.query import clean_text
from backline.store import JobStore
from backline.types import Collection, Passage, SearchHit

if TYPE_CHECKING:
    from backline.postgres.store import Store

QueryText = Annotated[str, typer.Argument(help="The query, in plain words.")]
Limit = Annotated[
    int,
    typer.Option("--limit", help="Largest number of hits.", min=1, max=library.LARGEST_PAGE),
]
Offset = Annotated[
    int,
    typer.Option("--offset", help="Skip this many hits, for the pages after the first.", min=0),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        help="Only rows that meet this condition: \"category = 'mixing' and confidence >= 0.8 "
        'and parameters.ratio > 3". Operators: = != < <= > >= in like ilike is null and or '
        "not.",
    ),
]
Weight = Annotated[
    float,
    typer.Option(
        "--weight",
        help="Weight of words against meaning in a hybrid search, 0 to 1. Raise it for part "
        "numbers and names, lower it for vague questions.",
        min=0,
        max=1,
    ),
]


ByPassage = Annotated[
    bool,
    typer.Option(
        "--passages",
        help="Return passages, in a collection that splits texts. Default: rows with their best "
        "passages.",
    ),
]


@database_options(via=StoreTransport)
def search(
    query: QueryText,
    collection: InCollection = None,
    mode: SearchMode = "hybrid",
    limit: Limit = 5,
    offset: Offset = 0,
    where: Where = None,
    weight: Weight = library.DEFAULT_WEIGHT,
    passages: ByPassage = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Find the rows that match a query, best first."""
    request = Query(
        query, mode_of(mode), limit, offset, where, weight, snippets=True, passages=passages
    )
    name, hits = asyncio.run(_search(config.load(**flags), collection, request))
    if as_json:
        found = [_hit(hit) for hit in hits]
        emit({"collection": name, "query": query, "mode": mode, "hits": found})
        return
    out.print(f"{name}: {count(len(hits), 'hit')}", style="dim", markup=False)
    show_hits(hits)


def mode_of(text: str) -> Mode:
    """Return the search mode of that name.

    Raises:
        UsageError: no mode has that name.

    """
    for mode in library.MODES:
        if mode == text:
            return mode
    raise errors.UsageError(f"--mode is {text!r}; use {', '.join(get_args(Mode))}.")


async def _search(
    settings: Settings, name: str | None, query: Query
) -> tuple[str, list[SearchHit]]:
    async with wiring.open_job_store(settings, "read") as store:
        collection = await store.collection(name)
        if query.mode != "semantic":
            await note_missing_keywords(store, collection, say)
        if query.mode == "keyword":
            hits = await library.search(store, collection, None, query)
        else:
            async with wiring.embedder_for(settings, collection.model, say) as (embedder, _):
                hits = await library.search(store, collection, embedder, query)
        if settings.keep_queries and query.offset == 0:
            await keep_query(store, collection, query.mode, query.text)
        return collection.name, hits


async def keep_query(store: JobStore, collection: Collection, mode: Mode, text: str) -> None:
    """Keep a query that was answered, if that takes a moment. Over PostgREST none is kept."""
    if store.capabilities.indexes:
        asked = Asked(collection.name, mode, clean_text(text))
        await keep_one(cast("Store", store), asked)


def _hit(hit: SearchHit) -> dict[str, Any]:
    return {
        "key": hit.key, "score": round(hit.score, 6), "parts": hit.parts, "content": hit.content,
        "snippet": hit.snippet, "row": hit.row,
        "passages": [asdict(passage) for passage in hit.passages],
    }  # fmt: skip


def show_hits(hits: list[SearchHit]) -> None:
    """Print hits with their scores; entries of the knowledge base with title and parameters."""
    if not hits:
        out.print("No hits. Is the collection embedded? See: backline status")
    for rank, hit in enumerate(hits, start=1):
        title = escape(str(hit.row.get("title") or hit.key))
        parts = ", ".join(f"{name} {value:.2f}" for name, value in hit.parts.items())
        out.print(f"{rank}. [bold]{title}[/bold]  {hit.score:.3f}  [dim]{parts}[/dim]")
        if hit.passages:
            show_passage(hit.passages[0])
        else:
            out.print(f"   {hit.row.get('suggestion') or hit.content}", markup=False)
        show_parameters(hit.row.get("parameters"))


def show_passage(passage: Passage) -> None:
    """Print a passage with the headings above it and its place in the text."""
    place = f"characters {passage.start} to {passage.end}"
    heading = f"{passage.heading}, " if passage.heading else ""
    out.print(f"   [dim]{escape(heading)}{place}[/dim]")
    out.print(f"   {passage.text}", markup=False)


def show_parameters(parameters: Mapping[str, Any] | None) -> None:
    """Print the parameters of an entry of the knowledge base in one line."""
    if parameters:
        text = ", ".join(f"{name} {json.dumps(value)}" for name, value in parameters.items())
        out.print(f"   [dim]{escape(text)}[/dim]")
