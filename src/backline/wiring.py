"""Turn settings into a store, an embedder and the parts of a worker, in that order.

The command line and the server call these functions. Modules that only some settings need (numpy,
httpx, the embedders) are imported in the functions that use them: `backline status` needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from backline import errors
from backline.embedders.limiter import Limiter
from backline.worker.batching import Budget
from backline.worker.options import LARGEST_CLAIM, WorkerOptions

if TYPE_CHECKING:
    from backline.config import Settings
    from backline.embedders.base import Embedder
    from backline.embedders.providers import EmbedderOptions, EmbedderSpec
    from backline.postgres.store import Store
    from backline.store import JobStore
    from backline.supabase.keys import Access, ApiKey
    from backline.types import Collection, Model
    from backline.worker.batch_handler import BatchHandler
    from backline.worker.remote import Target

Say = Callable[[str], None]

NEEDS_CONNECTION: Final = (
    "This command needs a connection to Postgres, which {} does not use. Set DATABASE_URL to the "
    "connection string (Supabase's dashboard, Connect), or BACKLINE_VIA=postgres for the embedded "
    "Postgres."
)


# --- store ----------------------------------------------------------------------------------------


def transport_of(settings: Settings) -> str:
    """Return the transport in force: USE_LOCAL_API replaces the Edge Function by a server."""
    return "api" if settings.via == "edge" and settings.use_local_api else settings.via


def rows_in_project(settings: Settings) -> bool:
    """Return whether the rows are reached over the API of a Supabase project.

    A database URL takes precedence: with both set, `--via edge` reads and claims over Postgres.
    """
    if settings.database_url is not None or settings.via == "postgres":
        return False
    return transport_of(settings) != "api" or settings.supabase_secret_key is not None


@asynccontextmanager
async def open_job_store(settings: Settings, need: Access = "write") -> AsyncIterator[JobStore]:
    """Open the store that holds the rows: a project's API, or else a database.

    Raises:
        ProjectKeyError: the project's key is missing or lacks the permission in `need`.
        ConfigurationError: the project's URL is missing.

    """
    if settings.via != "rest" and not rows_in_project(settings):
        async with open_database(settings) as database:
            yield database
        return
    from backline.supabase.keys import choose_key
    from backline.supabase.store import open_rest_store

    key = choose_key(settings.supabase_key, settings.supabase_secret_key, need)
    async with open_rest_store(_project_url(settings), key) as store:
        yield store


@asynccontextmanager
async def open_database(
    settings: Settings, *, migrated: bool = True, size: int = 6
) -> AsyncIterator[Store]:
    """Open the database of the settings; without a URL, start the embedded Postgres.

    Args:
        settings: select the database.
        migrated: whether to require the schema of this version of Backline.
        size: the largest number of pooled connections.

    Raises:
        ConfigurationError: the settings name a project's API and no database.
        NotMigratedError: the schema is required, and the database has none or an older one.

    """
    from backline.postgres.store import open_store

    if rows_in_project(settings):
        raise errors.ConfigurationError(NEEDS_CONNECTION.format(f"BACKLINE_VIA={settings.via}"))
    async with open_store(await _conninfo(settings), size=size) as store:
        if migrated:
            await require_schema(store)
        yield store


async def _conninfo(settings: Settings) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    from backline.postgres import embedded

    return await asyncio.to_thread(embedded.start, settings.data_dir)


async def require_schema(store: Store) -> None:
    """Check that the database has the schema of this version of Backline.

    Raises:
        NotMigratedError: the database has no schema, or an older one.
        SchemaDamagedError: objects of the schema are missing or changed.

    """
    from backline.postgres import migrate, schema
    from backline.sql import migrations

    try:
        pending = await migrate.pending(store.connector)
    except errors.PermissionDeniedError:  # the role may work, but not read the history
        pending = []
    if not pending:
        await schema.require_sound(store.connector)
        return
    if pending[0] == migrations()[0]:
        raise errors.NotMigratedError
    names = ", ".join(f"{each.version}_{each.name}" for each in pending[:3])
    names += f" and {len(pending) - 3} more" if len(pending) > 3 else ""
    raise errors.NotMigratedError(
        f"This database has the schema of an older Backline, without {names}. "
        "Run: backline migrate."
    )


def describe_database(settings: Settings, store: Store) -> str:
    """Return the database's address or folder, for messages; no password."""
    if settings.database_url is not None:
        return f"Postgres at {store.connector.where}"
    from backline.postgres import embedded

    return f"embedded Postgres in {settings.data_dir or embedded.default_folder()}"


def _project_url(settings: Settings) -> str:
    if settings.supabase_url is None:
        raise errors.ConfigurationError(
            f"--via {settings.via} needs the project's address. Set "
            "SUPABASE_URL=https://PROJECT.supabase.co."
        )
    return settings.supabase_url


# --- embedder -------------------------------------------------------------------------------------


async def resolve_model(settings: Settings, spec: str) -> Model:
    """Return the model that `spec` names, opening the embedder only to learn its dimensions."""
    from backline.embedders.providers import describe, open_embedder, parse_spec

    model = describe(spec)
    if model is not None:
        return model
    embedder = await open_embedder(spec, embedder_options(settings, parse_spec(spec).provider))
    try:
        return embedder.model
    finally:
        await embedder.aclose()


@asynccontextmanager
async def embedder_for(
    settings: Settings, model: Model, say: Say
) -> AsyncIterator[tuple[Embedder, Limiter]]:
    """Open an embedder as `open_for` does, and close it at the end of the block."""
    embedder, limiter = await open_for(settings, model, say)
    try:
        yield embedder, limiter
    finally:
        await embedder.aclose()


async def open_for(settings: Settings, model: Model, say: Say) -> tuple[Embedder, Limiter]:
    """Open the embedder of `model` and the limiter that all its callers share.

    Downloads missing weights and reports the download to `say`. The caller closes the embedder.
    """
    from backline.embedders.providers import open_embedder

    limiter = limiter_for(settings, model)
    spec = spec_of(settings, model)
    if model.provider == "local":
        await asyncio.to_thread(_pull, model.name, say)
    return await open_embedder(spec, embedder_options(settings, model.provider, limiter)), limiter


def _pull(name: str, say: Say) -> None:
    """Download the weights of a local model unless they are cached."""
    from backline.embedders import local

    if any(model.info.name == name and not model.cached for model in local.list_models()):
        local.pull(name, progress=say)


def spec_of(settings: Settings, model: Model) -> EmbedderSpec:
    """Return the specification that opens `model` with these settings.

    Raises:
        ConfigurationError: the model is from a folder, and the settings do not name the folder.

    """
    from backline.embedders import providers

    return providers.spec_of(model, settings.local_model_folder)


def embedder_options(
    settings: Settings, provider: str, limiter: Limiter | None = None
) -> EmbedderOptions:
    """Return how to reach a provider; rate limits in its responses go to `limiter`."""
    from backline.embedders.providers import EmbedderOptions

    return EmbedderOptions(
        api_key=settings.provider_key(provider),
        base_url=settings.provider_address(provider),
        timeout_s=settings.request_timeout,
        local_engine=settings.local_engine,
        local_threads=settings.local_threads,
        on_limits=limiter.observe if limiter else None,
    )


def limiter_for(settings: Settings, model: Model) -> Limiter:
    """Return the rate limiter that all callers of one model share."""
    return Limiter(
        max_concurrency=concurrency(settings, model),
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )


def concurrency(settings: Settings, model: Model) -> int:
    """Return the number of concurrent calls: 8 to a server, 2 to a model on this machine."""
    from backline.embedders.providers import waits_on_network

    if settings.workers is not None:
        return settings.workers
    return 8 if waits_on_network(model) else 2


# --- worker ---------------------------------------------------------------------------------------

# A local model never rejects a text, and computes large batches faster: with 50 texts of 12 tokens
# per call, it took 15 % more processor time.
LOCAL_BATCH_SIZE: Final = 512
LOCAL_BUDGET: Final = Budget(max_tokens=8_192)


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """Everything that a worker needs besides its store and collection."""

    handler: BatchHandler
    limiter: Limiter
    options: WorkerOptions


@asynccontextmanager
async def worker_parts(
    settings: Settings, collection: Collection, limit: int | None, say: Say
) -> AsyncIterator[WorkerParts]:
    """Open the embedder on this machine, or connect to the remote service that embeds.

    A worker with these options stops after `limit` rows.

    Raises:
        ConfigurationError, EmbedderError: embedding is not possible; nothing was spent.

    """
    options = worker_options(settings, collection.model, limit)
    if settings.via in ("postgres", "rest"):
        from backline.worker.batch_handler import EmbedBatches

        async with embedder_for(settings, collection.model, say) as (embedder, limiter):
            yield WorkerParts(EmbedBatches(embedder), limiter, options)
        return
    from backline.worker.remote import Remote, RemoteBatches

    target = _remote_target(settings)
    if target.transport == "edge" and collection.splitting is not None:
        raise errors.ConfigurationError(
            f"The Edge Function does not split texts, and {collection.name!r} is a collection of "
            "passages. Embed here: --via rest or --via postgres."
        )
    remote = Remote(target, collection)
    try:
        await remote.check()
        options = _remote_options(settings, target, options, collection.model)
        limiter = limiter_for(settings, collection.model)
        yield WorkerParts(RemoteBatches(remote), limiter, options)
    finally:
        await remote.aclose()


def worker_options(settings: Settings, model: Model, limit: int | None = None) -> WorkerOptions:
    """Return a worker's options for collections of `model`."""
    from backline.embedders.providers import waits_on_network

    return WorkerOptions(
        batch_size=batch_size(settings, model),
        concurrency=concurrency(settings, model),
        lease=settings.lease_seconds,
        give_up_after=settings.give_up_after,
        max_rows=limit,
        ahead=0 if waits_on_network(model) else LARGEST_CLAIM,
        cache_bytes=settings.cache_megabytes << 20,
        sweep_every=settings.sweep_seconds,
        budget=budget(model),
    )


def budget(model: Model) -> Budget:
    """Return the most of one call: what fits a local model's caches, or its provider's limits."""
    from backline.embedders import registry

    if model.provider == "local":
        return LOCAL_BUDGET
    tokens = registry.most_request_tokens(model)
    return Budget(max_tokens=tokens, max_bytes_over_4=tokens) if tokens else Budget()


def batch_size(settings: Settings, model: Model) -> int:
    """Return how many texts one call embeds: the setting, or a local model's larger default."""
    from backline.embedders import registry

    if model.provider == "local" and "batch_size" not in settings.model_fields_set:
        return LOCAL_BATCH_SIZE
    entry = registry.provider(model.provider)
    most = entry.max_inputs if entry else None
    return min(settings.batch_size, most or settings.batch_size)


def _remote_target(settings: Settings) -> Target:
    from backline.worker.remote import api_target, edge_target

    if transport_of(settings) == "edge":
        key = _function_key(settings)
        return edge_target(_project_url(settings), key, settings.function_secret)
    url = settings.api_url or f"http://{settings.host}:{settings.port}"
    return api_target(url, settings.api_key or settings.function_secret)


def _function_key(settings: Settings) -> ApiKey | None:
    """Return the secret key for calls of the Edge Function; FUNCTION_SECRET can replace it."""
    from backline.supabase.keys import choose_key

    if settings.supabase_secret_key is None and settings.function_secret is not None:
        return None
    return choose_key(settings.supabase_key, settings.supabase_secret_key, "write")


def _remote_options(
    settings: Settings, target: Target, options: WorkerOptions, model: Model
) -> WorkerOptions:
    """Return options whose batches fit the limits of the remote service."""
    from backline.worker.remote import EDGE_BUDGET, EDGE_ROWS, EDGE_ROWS_COMPUTED

    options = replace(options, ahead=0, concurrency=settings.workers or 4)
    if target.transport == "api":
        return options
    most = EDGE_ROWS_COMPUTED if model.provider == "supabase" else EDGE_ROWS
    return replace(options, batch_size=min(options.batch_size, most), budget=EDGE_BUDGET)


def shown_settings(settings: Settings, options: WorkerOptions) -> dict[str, Any]:
    """Return the configuration for a run's report, with secrets masked."""
    shown: dict[str, Any] = {
        "via": settings.via,
        "batch_size": options.batch_size,
        "workers": options.concurrency,
    }
    if options.max_rows is not None:
        shown["limit"] = options.max_rows
    keys = [name for name in type(settings).model_fields if name.endswith("_api_key")]
    return {**shown, **{name: "***" for name in keys if getattr(settings, name) is not None}}
