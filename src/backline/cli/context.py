"""What every command needs: settings, a database, an embedder; opened once and closed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from backline import config, embedded, errors, migrate
from backline.cli.output import say
from backline.config import Settings
from backline.embedders.base import Embedder
from backline.embedders.registry import EmbedderOptions, open_embedder
from backline.limiter import Limiter
from backline.sql import migrations
from backline.store import Store, open_store
from backline.types import Collection, Model

T = TypeVar("T")

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="Postgres with pgvector, postgresql://user:password@host/db. Default: the "
        "embedded Postgres. Environment: DATABASE_URL, the better place for a password.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="FOLDER",
        help="Folder of the embedded Postgres; another one is another database. Default: the "
        "per-user data folder. Environment: BACKLINE_DATA_DIR.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON object on standard output, for machines; also for an error."
    ),
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


def settings_of(**flags: Any) -> Settings:
    """The settings, where the flags that were given win over every other source."""
    return config.load(**flags)


@asynccontextmanager
async def database(settings: Settings, *, migrated: bool = True) -> AsyncIterator[Store]:
    """The store of the settings' database, starting the embedded one where none is named.

    Args:
        settings: which database.
        migrated: whether the caller needs the schema of this version of Backline.

    Raises:
        NotMigratedError: it needs it, and the database has none or an older one.

    """
    url = settings.database_url
    if url is not None:
        conninfo = url.get_secret_value()
    else:
        conninfo = await asyncio.to_thread(embedded.start, settings.data_dir)
    async with open_store(conninfo) as store:
        if migrated:
            await _require_schema(store)
        yield store


async def _require_schema(store: Store) -> None:
    try:
        pending = await migrate.pending(store.connector, core_only=True)
    except errors.PermissionDeniedError:  # a role that may work, but not read the history
        return
    if not pending:
        return
    if pending[0] == migrations()[0]:
        raise errors.NotMigratedError
    names = ", ".join(f"{each.version}_{each.name}" for each in pending)
    raise errors.NotMigratedError(
        f"This database has the schema of an older Backline, without {names}. "
        "Run: backline migrate."
    )


def where(settings: Settings, store: Store) -> str:
    """The database as a person knows it."""
    if settings.database_url is not None:
        return f"Postgres at {store.connector.where}"
    return f"embedded Postgres in {settings.data_dir or embedded.default_folder()}"


@asynccontextmanager
async def embedder_for(settings: Settings, model: Model) -> AsyncIterator[tuple[Embedder, Limiter]]:
    """The embedder that makes vectors of `model`, with the limiter that all its callers share."""
    limiter = Limiter(
        max_concurrency=concurrency(settings, model),
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )
    spec = spec_of(settings, model)
    if model.provider == "local":
        await asyncio.to_thread(_pull, model.name)
    opened = await open_embedder(spec, embedder_options(settings, limiter))
    try:
        yield opened, limiter
    finally:
        await opened.aclose()


def embedder_options(settings: Settings, limiter: Limiter | None = None) -> EmbedderOptions:
    """How to reach a provider; what its answers say of its limits goes to `limiter`."""
    return EmbedderOptions(
        openai_api_key=settings.openai_api_key,
        openai_base_url=settings.openai_base_url,
        timeout_s=settings.request_timeout,
        local_engine=settings.local_engine,
        local_threads=settings.local_threads,
        on_limits=limiter.observe if limiter else None,
    )


def _pull(name: str) -> None:
    """Fetch weights that are not here yet, saying so: it takes longer than anything else."""
    from backline.embedders import local  # noqa: PLC0415  tokenizers load slowly

    if any(model.info.name == name and not model.cached for model in local.list_models()):
        local.pull(name, progress=say)


def spec_of(settings: Settings, model: Model) -> str:
    """The text that names a model again, as `--model` takes it.

    Raises:
        ConfigurationError: the model is a folder of the user's own, and the settings do not say
            where it is on this machine.

    """
    if model.provider == "hash":
        return f"hash@{model.dimensions}"
    if model.provider == "openai":
        return f"openai/{model.name}@{model.dimensions}"
    if model.name in local_models():
        return f"local/{model.name}"
    if settings.local_model_folder is None:
        raise errors.ConfigurationError(
            f"{model.provider}/{model.name} is a model folder of your own. Say where it is on this "
            "machine: BACKLINE_LOCAL_MODEL_FOLDER=/path/to/folder."
        )
    return f"local:{settings.local_model_folder}"


def local_models() -> list[str]:
    """The names of the local models that Backline knows."""
    from backline.embedders.local.registry import MODELS  # noqa: PLC0415

    return list(MODELS)


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
