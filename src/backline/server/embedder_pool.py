"""The embedders of a server. Each model is loaded once and shared by all requests and workers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from backline import errors, wiring
from backline.config import Settings
from backline.embedders import registry
from backline.embedders.base import Embedder, SharesBatches
from backline.embedders.hash import HashEmbedder
from backline.embedders.limiter import Limiter
from backline.embedders.providers import describe, parse_spec
from backline.server import telemetry
from backline.server.dynamic_batching import DynamicBatcher
from backline.server.metrics import Metrics
from backline.types import Model, Purpose, Vectors

MAX_RECENT: Final = 64

log = structlog.get_logger("backline.server")


class PooledEmbedder:
    """An embedder shared by the worker, searches and API calls.

    Implements `backline.embedders.base.Embedder`. Queries are batched across calls and overtake
    passages. The worker's passages are not batched again, because they already are full batches.
    """

    def __init__(self, inner: Embedder, metrics: Metrics) -> None:
        self._inner = inner
        self._timed = _TimedEmbedder(inner, metrics)
        self._queries = DynamicBatcher(self._timed, "query")
        shares = isinstance(inner, SharesBatches) and inner.shares_batches
        self._calls = DynamicBatcher(self._timed, "passage", pass_through=shares)

    @property
    def model(self) -> Model:
        return self._inner.model

    @property
    def free(self) -> bool:
        return self._inner.free

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        if purpose == "query":
            return await self._queries.embed(texts)
        return await self._timed.embed(texts, purpose=purpose)

    async def embed_call(self, texts: Sequence[str], purpose: Purpose = "passage") -> Vectors:
        """Embed the texts of one API call, batched with those of concurrent calls."""
        calls = self._queries if purpose == "query" else self._calls
        return await calls.embed(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._inner.count_tokens(texts)

    def truncate(self, text: str) -> str:
        return self._inner.truncate(text)

    async def aclose(self) -> None:
        await self._queries.aclose()
        await self._calls.aclose()
        await self._inner.aclose()


class _TimedEmbedder:
    """An embedder that counts and times its calls."""

    def __init__(self, inner: Embedder, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics
        self._name = name_of(inner.model)

    @property
    def model(self) -> Model:
        return self._inner.model

    @property
    def free(self) -> bool:
        return self._inner.free

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        with (
            telemetry.embedding(self._name, purpose, len(texts)),
            self._metrics.provider_call(self._name, purpose, len(texts)),
        ):
            return await self._inner.embed(texts, purpose=purpose)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._inner.count_tokens(texts)

    def truncate(self, text: str) -> str:
        return self._inner.truncate(text)

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(frozen=True, slots=True)
class PooledModel:
    """An open model: its embedder, and the rate limiter of its backfills and upserts."""

    embedder: PooledEmbedder
    limiter: Limiter


@dataclass(slots=True)
class EmbedderPool:
    """Opens each model at its first use and keeps it open."""

    settings: Settings
    metrics: Metrics
    _open: dict[tuple[str, str, str, int], PooledModel] = field(default_factory=dict)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _recent: dict[tuple[str, int | None], PooledModel] = field(default_factory=dict)

    async def get(self, model: Model) -> PooledModel:
        """Return the embedder of `model`, opened if necessary.

        Raises:
            ConfigurationError: the server lacks a key, an extra or the weights of the model.
            ModelMismatchError: the server has another revision of the model.
        """
        if pooled := self._open.get(model.identity):
            return pooled
        async with self._opening:
            if pooled := self._open.get(model.identity):
                return pooled
            embedder, limiter = await wiring.open_for(self.settings, model, log.info)
            if embedder.model.identity != model.identity:
                await embedder.aclose()
                raise errors.ModelMismatchError(
                    f"The collection is embedded with {model} revision {model.revision}; this "
                    f"server has {embedder.model} revision {embedder.model.revision}. Run the "
                    "Backline that embedded it, or: backline model change."
                )
            pooled = PooledModel(PooledEmbedder(embedder, self.metrics), limiter)
            self._open[model.identity] = pooled
            return pooled

    def recent(self, name: str, dimensions: int | None) -> PooledModel | None:
        """Return an earlier result of `named`. The models of a name do not change while it runs."""
        return self._recent.get((name, dimensions))

    async def named(self, name: str, dimensions: int | None, used: Iterable[Model]) -> PooledModel:
        """Return the model that an OpenAI API call names; `used` are the models of the collections.

        Raises:
            ModelNotFoundError: the server has no model of that name.
            UsageError: the model has other dimensions.
        """
        if name.partition("@")[0] == "hash":
            return self._remember(name, dimensions, self._hash(name, dimensions))
        matching = await self._matching(name, used)
        fitting = [model for model in matching if dimensions in (None, model.dimensions)]
        if fitting:
            return self._remember(name, dimensions, await self.get(fitting[0]))
        shortened = await self.get(_shortened(matching[0], name, dimensions))
        return self._remember(name, dimensions, shortened)

    async def known(self, name: str, used: Iterable[Model]) -> Model:
        """Return the model of a name without opening it.

        Raises:
            ModelNotFoundError: the server has no model of that name.
        """
        if name.partition("@")[0] == "hash":
            return self._hash(name, None).embedder.model
        return (await self._matching(name, used))[0]

    async def _matching(self, name: str, used: Iterable[Model]) -> list[Model]:
        available = await self.available(used)
        matching = [model for model in available if name in _names_of(model)]
        if not matching:
            raise errors.ModelNotFoundError(
                f"This server has no model {name!r}. It has: "
                f"{', '.join(map(name_of, available))}, hash."
            )
        return matching

    def _remember(self, name: str, dimensions: int | None, pooled: PooledModel) -> PooledModel:
        self._recent[name, dimensions] = pooled
        if len(self._recent) > MAX_RECENT:
            self._recent.pop(next(iter(self._recent)))
        return pooled

    def _hash(self, name: str, dimensions: int | None) -> PooledModel:
        """Return a hash embedder, which has any dimensions and costs nothing to open."""
        declared = parse_spec(name).dimensions
        if declared is not None and dimensions not in (None, declared):
            raise _wrong_dimensions(name, declared, dimensions)
        embedder = HashEmbedder(dimensions or declared or 384)
        if pooled := self._open.get(embedder.model.identity):
            return pooled
        return PooledModel(PooledEmbedder(embedder, self.metrics), Limiter())

    async def available(self, used: Iterable[Model]) -> list[Model]:
        """Return the models of the collections and the cached local models that can be opened."""
        cached = await asyncio.to_thread(_cached_models)
        models = {model.identity: model for model in [*used, *cached]}
        return [model for model in models.values() if self._can_open(model)]

    def _can_open(self, model: Model) -> bool:
        try:
            wiring.spec_of(self.settings, model)
        except errors.ConfigurationError:
            return False
        return self.settings.reaches(model.provider)

    async def aclose(self) -> None:
        for pooled in self._open.values():
            await pooled.embedder.aclose()
        self._open.clear()
        self._recent.clear()


def name_of(model: Model) -> str:
    """Return the name of a model in the OpenAI API, as `--model` accepts it."""
    return (
        f"hash@{model.dimensions}" if model.provider == "hash" else f"{model.provider}/{model.name}"
    )


def _names_of(model: Model) -> set[str]:
    """Return the accepted names of a model. Plain "hash" names no collection's model."""
    full = name_of(model)
    return {full} if model.provider == "hash" else {full, model.name}


def _shortened(model: Model, name: str, dimensions: int | None) -> Model:
    """Return a provider's model with other dimensions than a collection's.

    Raises:
        UsageError: the model belongs to another provider and has fixed dimensions.
    """
    if registry.provider(model.provider) is not None:
        try:
            shortened = describe(f"{model.provider}/{model.name}@{dimensions}")
        except errors.ConfigurationError as error:
            raise errors.UsageError(str(error)) from None
        if shortened is not None:
            return shortened
    raise _wrong_dimensions(name, model.dimensions, dimensions, " Leave dimensions out.")


def _wrong_dimensions(
    name: str, actual: int, requested: int | None, hint: str = ""
) -> errors.UsageError:
    return errors.UsageError(
        f"{name} gives {actual} dimensions, and {requested} were requested.{hint}"
    )


def _cached_models() -> list[Model]:
    from backline.embedders import local

    return [
        Model("local", m.info.name, m.info.short_revision, m.info.dimensions, m.info.max_tokens)
        for m in local.list_models()
        if m.cached
    ]
