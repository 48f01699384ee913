"""What every command needs: settings, a database, an embedder; opened once and closed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from backline import config, errors, wiring
from backline.cli.output import say
from backline.config import Settings
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.postgres import embedded, migrate
from backline.postgres.store import Store, open_store
from backline.sql import migrations
from backline.types import Collection, Model

T = TypeVar("T")

NEEDS_CONNECTION: Final = (
    "This command needs a connection to Postgres, and {} goes without one. Set DATABASE_URL to the "
    "connection string (Supabase's dashboard, Connect), or BACKLINE_VIA=postgres for the embedded "
    "Postgres."
)

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
async def database(
    settings: Settings, *, migrated: bool = True, size: int = 6
) -> AsyncIterator[Store]:
    """The store of the settings' database, starting the embedded one where none is named.

    Args:
        settings: which database.
        migrated: whether the caller needs the schema of this version of Backline.
        size: connections at most.

    Raises:
        ConfigurationError: the rows are in a project of which only the API is known.
        NotMigratedError: it needs it, and the database has none or an older one.

    """
    url = settings.database_url
    if rows_in_project(settings):
        raise errors.ConfigurationError(NEEDS_CONNECTION.format(f"BACKLINE_VIA={settings.via}"))
    if url is not None:
        conninfo = url.get_secret_value()
    else:
        conninfo = await asyncio.to_thread(embedded.start, settings.data_dir)
    async with open_store(conninfo, size=size) as store:
        if migrated:
            await require_schema(store)
        yield store


def rows_in_project(settings: Settings) -> bool:
    """Whether the rows are reached by a project's API; another way may name a database too."""
    if settings.database_url is not None or settings.via == "postgres":
        return False
    return way_of(settings) != "api" or settings.supabase_secret_key is not None


def way_of(settings: Settings) -> str:
    """USE_LOCAL_API sends rows that are for the Edge Function to a server."""
    return "api" if settings.via == "edge" and settings.use_local_api else settings.via


async def require_schema(store: Store) -> None:
    """Refuse a database that this version of Backline has not migrated.

    Raises:
        NotMigratedError: it has no schema, or an older one.

    """
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


def embedder_for(
    settings: Settings, model: Model
) -> AbstractAsyncContextManager[tuple[Embedder, Limiter]]:
    """The embedder that makes vectors of `model`, with the limiter that all its callers share."""
    return wiring.embedder_for(settings, model, say)


async def on_collection(
    settings: Settings, name: str | None, action: Callable[[Store, Collection], Awaitable[T]]
) -> T:
    """Open the database, find the collection, do something with both."""
    async with database(settings) as store:
        return await action(store, await store.collection(name))
