"""Commands that read: search."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from backline import errors, search
from backline.cli.context import (
    AsJson,
    DatabaseUrl,
    DataDir,
    database,
    embedder_for,
    run,
    settings_of,
)
from backline.cli.output import emit, out
from backline.config import Settings
from backline.types import SearchHit

MODES = ("semantic",)


def search_command(
    query: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", help="Default: the only one, or music_knowledge."),
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="semantic: by meaning.")] = "semantic",
    limit: Annotated[int, typer.Option("--limit", help="How many hits.", min=1, max=1000)] = 5,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows that answer a question, best first."""
    if mode not in MODES:
        raise errors.UsageError(f"--mode is {mode!r}; use {' or '.join(MODES)}.")
    settings = settings_of(database_url=database_url, data_dir=data_dir)
    hits = run(_search(settings, query, collection, limit))
    if as_json:
        emit({"query": query, "mode": mode, "hits": [_hit(hit) for hit in hits]})
        return
    show_hits(hits)


async def _search(settings: Settings, query: str, name: str | None, limit: int) -> list[SearchHit]:
    async with database(settings) as store:
        collection = await store.collection(name)
        async with embedder_for(settings, collection.model) as (embedder, _):
            return await search.semantic(store, collection, embedder, query, limit)


def _hit(hit: SearchHit) -> dict[str, Any]:
    return {
        "key": hit.key, "score": round(hit.score, 6), "parts": hit.parts, "content": hit.content,
        "row": hit.row,
    }  # fmt: skip


def show_hits(hits: list[SearchHit]) -> None:
    """Hits with their scores; entries of the knowledge base with title and parameters."""
    if not hits:
        out.print("No hits. Is the collection embedded? See: backline status")
    for rank, hit in enumerate(hits, start=1):
        title = hit.row.get("title") or hit.key
        out.print(f"{rank}. [bold]{title}[/bold]  {hit.score:.3f}")
        out.print(f"   {hit.row.get('suggestion') or hit.content}", markup=False)
        parameters = hit.row.get("parameters")
        if parameters:
            shown = ", ".join(f"{name} {json.dumps(value)}" for name, value in parameters.items())
            out.print(f"   [dim]{shown}[/dim]")
