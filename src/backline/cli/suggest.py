"""The command `suggest`: ranked advice from the knowledge base."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from backline import config, wiring
from backline import search as library
from backline.cli.options import NO_FLAGS, AsJson, Flags, InCollection, database_options
from backline.cli.output import emit, out, say
from backline.cli.search import keep_query, show_parameters
from backline.config import Settings
from backline.search import Context, Suggestions
from backline.search.indexes import note_missing_keywords

Prompt = Annotated[str, typer.Argument(help="The user's question, in plain words.")]
ContextName = Annotated[
    str | None,
    typer.Option("--context", help="Category or topic of the question, such as mixing."),
]
Genre = Annotated[
    str | None, typer.Option("--genre", help="Musical genre, such as techno or jazz.")
]
Tempo = Annotated[
    float | None, typer.Option("--bpm", help="Tempo in beats per minute.", min=1, max=1000)
]
TrackType = Annotated[
    str | None, typer.Option("--track-type", help="Kind of track, such as vocals or drums.")
]
Limit = Annotated[
    int, typer.Option("--limit", help="Largest number of suggestions.", min=1, max=20)
]


@database_options()
def suggest(
    prompt: Prompt,
    context: ContextName = None,
    genre: Genre = None,
    bpm: Tempo = None,
    track_type: TrackType = None,
    limit: Limit = 5,
    collection: InCollection = None,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Rank advice for a question from the knowledge base.

    Each suggestion comes with parameters. The command reports when nothing relevant is known.
    """
    about = Context(context, genre, bpm, track_type)
    name, result = asyncio.run(_suggest(config.load(**flags), collection, prompt, about, limit))
    if as_json:
        emit({"collection": name, **asdict(result)})
        return
    out.print(f"{name}: {result.message}", markup=False)
    for rank, each in enumerate(result.suggestions, start=1):
        out.print(f"{rank}. [bold]{escape(each.title)}[/bold]")
        out.print(f"   {each.advice}", markup=False)
        show_parameters(each.parameters)
        out.print(f"   [dim]{escape(each.reason)}[/dim]")


async def _suggest(
    settings: Settings, name: str | None, prompt: str, context: Context, limit: int
) -> tuple[str, Suggestions]:
    async with wiring.open_database(settings) as store:
        collection = await store.collection(name)
        await note_missing_keywords(store, collection, say)
        async with wiring.embedder_for(settings, collection.model, say) as (embedder, _):
            found = await library.suggest(store, collection, embedder, prompt, context, limit=limit)
        if settings.keep_queries:
            await keep_query(store, collection, "hybrid", prompt)
        return collection.name, found
