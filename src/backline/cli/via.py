"""`--via`: the ways to the same job. Where the rows come from, and who makes their vectors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

import typer

from backline import errors
from backline.cli.context import database, embedder_for, rows_in_project, way_of
from backline.config import Settings
from backline.embedders.limiter import Limiter
from backline.store import JobStore
from backline.supabase.keys import Access, ApiKey, choose_key
from backline.supabase.store import open_rest_store
from backline.types import Collection, Model
from backline.wiring import limiter_for, worker_options
from backline.worker.handler import BatchHandler, EmbedBatches
from backline.worker.options import WorkerOptions
from backline.worker.remote import (
    EDGE_BUDGET,
    EDGE_ROWS,
    EDGE_ROWS_COMPUTED,
    Remote,
    RemoteBatches,
    Target,
    api_target,
    edge_target,
)

T = TypeVar("T")

Via = Annotated[
    str | None,
    typer.Option(
        "--via",
        metavar="WAY",
        help="postgres: a connection to the database. rest: the API of a Supabase project, with "
        "its URL and secret key only. Default: postgres. Environment: BACKLINE_VIA.",
        show_default=False,
    ),
]
ViaAll = Annotated[
    str | None,
    typer.Option(
        "--via",
        metavar="WAY",
        help="postgres: embed here, write over a connection to the database. rest: embed here, "
        "write over the API of a Supabase project, with its URL and secret key only. api: a "
        "Backline server embeds and stores. edge: the Edge Function upsert-embeddings does. "
        "Default: postgres. Environment: BACKLINE_VIA.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything that a backfill needs beside its store."""

    handler: BatchHandler
    limiter: Limiter
    options: WorkerOptions


@asynccontextmanager
async def job_store(settings: Settings, need: Access = "write") -> AsyncIterator[JobStore]:
    """The store that the rows are in; a project's, where one is named and no database is.

    Raises:
        ProjectKeyError: the project's key is missing, or may not do what is needed.
        ConfigurationError: the project's URL is missing.

    """
    if settings.via != "rest" and not rows_in_project(settings):
        async with database(settings) as postgres:
            yield postgres
        return
    key = choose_key(settings.supabase_key, settings.supabase_secret_key, need)
    async with open_rest_store(_project_url(settings), key) as store:
        yield store


def _project_url(settings: Settings) -> str:
    if settings.supabase_url is None:
        raise errors.ConfigurationError(
            f"--via {settings.via} needs the project's address. Set "
            "SUPABASE_URL=https://PROJECT.supabase.co."
        )
    return settings.supabase_url


async def on_job_store(
    settings: Settings, name: str | None, action: Callable[[JobStore, Collection], Awaitable[T]]
) -> T:
    """Open the store, find the collection, do something with both."""
    async with job_store(settings) as store:
        return await action(store, await store.collection(name))


@asynccontextmanager
async def workshop(
    settings: Settings, collection: Collection, limit: int | None
) -> AsyncIterator[Workshop]:
    """Who embeds, here or elsewhere, having been asked whether it can.

    Raises:
        ConfigurationError, EmbedderError: it cannot; nothing was spent.

    """
    options = worker_options(settings, collection.model, limit)
    if settings.via in ("postgres", "rest"):
        async with embedder_for(settings, collection.model) as (embedder, limiter):
            yield Workshop(EmbedBatches(embedder), limiter, options)
        return
    target = _target(settings)
    remote = Remote(target, collection)
    try:
        await remote.check()
        options = _remote_options(settings, target, options, collection.model)
        yield Workshop(RemoteBatches(remote), limiter_for(settings, collection.model), options)
    finally:
        await remote.aclose()


def _target(settings: Settings) -> Target:
    if way_of(settings) == "edge":
        return edge_target(
            _project_url(settings), _function_key(settings), settings.function_secret
        )
    url = settings.api_url or f"http://{settings.host}:{settings.port}"
    return api_target(url, settings.api_key or settings.function_secret)


def _function_key(settings: Settings) -> ApiKey | None:
    """The secret key, which lets its holder call the function; FUNCTION_SECRET does as well."""
    if settings.supabase_secret_key is None and settings.function_secret is not None:
        return None
    return choose_key(settings.supabase_key, settings.supabase_secret_key, "write")


def _remote_options(
    settings: Settings, target: Target, options: WorkerOptions, model: Model
) -> WorkerOptions:
    """Batches that fit the limits of the other side; little is held ready, as with a provider."""
    options = replace(options, ahead=0, concurrency=settings.workers or 4)
    if target.transport == "api":
        return options
    most = EDGE_ROWS_COMPUTED if model.provider == "supabase" else EDGE_ROWS
    return replace(options, batch_size=min(options.batch_size, most), budget=EDGE_BUDGET)
