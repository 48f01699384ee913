"""The command `index`: build the indexes for search and measure their recall."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape

from backline import config, search, wiring
from backline.cli.options import NO_FLAGS, AsJson, CollectionName, Flags, database_options
from backline.cli.output import duration, emit, facts, out
from backline.config import Settings

Rebuild = Annotated[
    bool, typer.Option("--rebuild", help="Build both indexes again, even if they exist.")
]
Keywords = Annotated[
    str | None,
    typer.Option(
        "--keywords",
        help="Text to index for keywords, such as '{title} {title} {body}'. A column named "
        "twice weighs twice. Default: the text that is embedded.",
    ),
]
Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        help="Text search configuration of Postgres for the keywords: english, german, simple "
        "(no stemming) and so on. Default: that of the index.",
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--check",
        help="Compare this many searches of the vector index with an exact search and report "
        "recall@10. 0 skips the check.",
        min=0,
        max=10_000,
    ),
]


@database_options()
def index(
    collection: CollectionName = None,
    rebuild: Rebuild = False,
    keywords: Keywords = None,
    language: Language = None,
    samples: Samples = 0,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Build the missing indexes for search: keywords, and HNSW for large tables."""
    settings = config.load(**flags)
    result = asyncio.run(_index(settings, collection, keywords, language, samples, rebuild=rebuild))
    if as_json:
        emit(result)
        return
    _show(result)


async def _index(
    settings: Settings, name: str | None, keywords: str | None, language: str | None, samples: int,
    *, rebuild: bool,
) -> dict[str, Any]:  # fmt: skip
    async with wiring.open_database(settings) as store:
        collection = await store.collection(name)
        if keywords is not None or language is not None:
            await search.set_keywords(store, collection, template=keywords, language=language)
        indexes = await search.ensure_index(store, collection, rebuild=rebuild)
        recall = await search.recall(store, collection, samples) if samples else None
    return {
        "collection": collection.name,
        **asdict(indexes),
        "recall": None if recall is None else asdict(recall),
    }


def _show(result: dict[str, Any]) -> None:
    vectors, keywords, recall = result["vectors"], result["keywords"], result["recall"]
    out.print(f"[bold]{escape(result['collection'])}[/bold]")
    pairs = {
        "vectors": f"{vectors['state']}, {vectors['rows']:,} rows embedded",
        "keywords": f"{keywords['documents']:,} rows, {keywords['language']}, "
        f"{keywords['text_template']}",
    }
    if vectors["state"] == "built":
        pairs["vectors"] += f", in {duration(vectors['seconds'])}"
    if recall is not None:
        pairs["recall@10"] = (
            f"{recall['mean']:.4f} mean, {recall['worst']:.2f} minimum, "
            f"over {recall['queries']:,} searches"
        )
    facts(pairs)
