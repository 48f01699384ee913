"""What every command needs: settings, a database, an embedder; opened once and closed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from backline import config, embedded
from backline.config import Settings
from backline.embedders.base import Embedder
from backline.embedders.registry import EmbedderOptions, open_embedder
from backline.limiter import Limiter
from backline.store import Store, open_store
from backline.types import Collection, Model

T = TypeVar("T")

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="Postgres with pgvector, postgresql://user:password@host:5432/database. Without it, "
        "DATABASE_URL; without that, the embedded Postgres.",
        rich_help_panel="Where",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of the embedded Postgres. Change it to keep two apart; default: the per-user "
        "data folder. Environment: BACKLINE_DATA_DIR.",
        rich_help_panel="Where",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on standard output, for machines."),
]
CollectionName = Annotated[
    str | None,
    typer.Argument(
        metavar="[COLLECTION]",
        help="Which collection; default: the only one there is, or music_knowledge.",
        show_default=False,
    ),
]


def run(main: Coroutine[Any, Any, T]) -> T:
    """The edge between the synchronous command line and the asynchronous library."""
    return asyncio.run(main)


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Store]:
    """The store of the settings' database, starting the embedded one where none is named."""
    url = settings.database_url
    if url is not None:
        conninfo = url.get_secret_value()
    else:
        conninfo = await asyncio.to_thread(embedded.start, settings.data_dir)
    async with open_store(conninfo) as store:
        yield store


@asynccontextmanager
async def embedder_for(settings: Settings, model: Model) -> AsyncIterator[tuple[Embedder, Limiter]]:
    """The embedder that makes vectors of `model`, with the limiter that all its callers share."""
    limiter = Limiter(max_concurrency=concurrency(settings, model))
    options = EmbedderOptions(
        openai_api_key=settings.openai_api_key,
        openai_base_url=settings.openai_base_url,
        timeout_s=settings.request_timeout,
        on_limits=limiter.observe,
    )
    opened = await open_embedder(spec_of(model), options)
    try:
        yield opened, limiter
    finally:
        await opened.aclose()


def spec_of(model: Model) -> str:
    """The text that names a model again, as `--model` takes it."""
    if model.provider == "hash":
        return f"hash@{model.dimensions}"
    if model.provider == "openai":
        return f"openai/{model.name}@{model.dimensions}"
    return f"{model.provider}/{model.name}"


def concurrency(settings: Settings, model: Model) -> int:
    """Requests in flight: a remote provider waits on the network, a local one on the processor."""
    if settings.workers is not None:
        return settings.workers
    return 8 if model.provider == "openai" else 2


async def on_collection(
    settings: Settings, name: str | None, action: Callable[[Store, Collection], Awaitable[T]]
) -> T:
    """Open the database, find the collection, do something with both."""
    async with database(settings) as store:
        return await action(store, await store.collection(name))


def settings_of(**flags: Any) -> Settings:
    return config.load(**flags)
