"""From settings to what does the work: the embedder of a model, its limiter, a worker's options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from backline import errors
from backline.config import Settings
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.embedders.specs import EmbedderOptions, open_embedder
from backline.types import Model
from backline.worker.batching import Budget
from backline.worker.options import LARGEST_CLAIM, WorkerOptions

Say = Callable[[str], None]

# A local model rejects nothing, and needs some thousand tokens at a time to pack them well: with 50
# texts of 12 tokens a call it took 15 % more processor time.
LOCAL_BATCH_SIZE: Final = 512
LOCAL_BUDGET: Final = Budget(max_tokens=8_192)


def concurrency(settings: Settings, model: Model) -> int:
    """Requests in flight: a remote provider waits on the network, a local one on the processor."""
    if settings.workers is not None:
        return settings.workers
    return 8 if model.provider == "openai" else 2


def worker_options(settings: Settings, model: Model, limit: int | None = None) -> WorkerOptions:
    """How a worker of these settings works on a collection of this model."""
    return WorkerOptions(
        batch_size=batch_size(settings, model),
        concurrency=concurrency(settings, model),
        lease=settings.lease_seconds,
        give_up_after=settings.give_up_after,
        max_rows=limit,
        ahead=0 if model.provider == "openai" else LARGEST_CLAIM,
        cache_bytes=settings.cache_megabytes << 20,
        budget=LOCAL_BUDGET if model.provider == "local" else Budget(),
    )


def batch_size(settings: Settings, model: Model) -> int:
    """Texts a call: as set; else 50 for who may reject some, and many for this processor."""
    if model.provider == "local" and "batch_size" not in settings.model_fields_set:
        return LOCAL_BATCH_SIZE
    return settings.batch_size


def shown_settings(settings: Settings, options: WorkerOptions) -> dict[str, Any]:
    """The configuration that a report shows: nothing secret."""
    shown: dict[str, Any] = {
        "via": settings.via,
        "batch_size": options.batch_size,
        "workers": options.concurrency,
    }
    if options.max_rows is not None:
        shown["limit"] = options.max_rows
    if settings.openai_api_key is not None:
        shown["openai_api_key"] = "***"
    return shown


def limiter_for(settings: Settings, model: Model) -> Limiter:
    """The pace that all callers of one model keep together."""
    return Limiter(
        max_concurrency=concurrency(settings, model),
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )


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


async def open_for(settings: Settings, model: Model, say: Say) -> tuple[Embedder, Limiter]:
    """The embedder that makes vectors of `model`, with the limiter that all its callers share.

    Weights that are not here yet are fetched, which `say` is told of. The caller closes it.
    """
    limiter = limiter_for(settings, model)
    spec = spec_of(settings, model)
    if model.provider == "local":
        await asyncio.to_thread(_pull, model.name, say)
    return await open_embedder(spec, embedder_options(settings, limiter)), limiter


@asynccontextmanager
async def embedder_for(
    settings: Settings, model: Model, say: Say
) -> AsyncIterator[tuple[Embedder, Limiter]]:
    """`open_for`, closed at the end of the block."""
    opened, limiter = await open_for(settings, model, say)
    try:
        yield opened, limiter
    finally:
        await opened.aclose()


def _pull(name: str, say: Say) -> None:
    """Fetch weights that are not here yet, saying so: it takes longer than anything else."""
    from backline.embedders import local

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
    if model.provider == "supabase":
        return f"supabase/{model.name}"
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
    from backline.embedders.local.catalog import MODELS

    return list(MODELS)
