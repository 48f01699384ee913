"""The embedders of a server: each model is opened once, and shared by all that need it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from backline import errors, wiring
from backline.config import Settings
from backline.embedders.base import Embedder, SharesBatches
from backline.embedders.hash import HashEmbedder
from backline.embedders.limiter import Limiter
from backline.embedders.specs import describe, parse_spec
from backline.server.dynamic_batching import Gatherer
from backline.server.metrics import Metrics
from backline.types import Model, Purpose, Vectors

MOST_RECENT: Final = 64

log = structlog.get_logger("backline.server")


class SharedEmbedder:
    """An embedder that the worker, searches and API callers use side by side.

    Implements `backline.embedders.base.Embedder`. Queries are gathered and go first; passages of
    the worker are batches already. Every call is timed.
    """

    def __init__(self, inner: Embedder, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics
        timed = _Timed(inner, metrics)
        self._timed = timed
        self._queries = Gatherer(timed, "query")
        shares = isinstance(inner, SharesBatches) and inner.shares_batches
        self._calls = Gatherer(timed, "passage", passes_on=shares)

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

    async def embed_call(self, texts: Sequence[str]) -> Vectors:
        """Passages of one of many callers, computed together with those of the others."""
        return await self._calls.embed(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._inner.count_tokens(texts)

    def truncate(self, text: str) -> str:
        return self._inner.truncate(text)

    async def aclose(self) -> None:
        await self._queries.aclose()
        await self._calls.aclose()
        await self._inner.aclose()


class _Timed:
    """An embedder whose calls are counted and timed."""

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
        with self._metrics.provider_call(self._name, purpose, len(texts)):
            return await self._inner.embed(texts, purpose=purpose)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._inner.count_tokens(texts)

    def truncate(self, text: str) -> str:
        return self._inner.truncate(text)

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(frozen=True, slots=True)
class Opened:
    """An embedder with the limiter that all its callers share."""

    embedder: SharedEmbedder
    limiter: Limiter


@dataclass(slots=True)
class Models:
    """Opens models when they are first needed, and keeps them."""

    settings: Settings
    metrics: Metrics
    _opened: dict[tuple[str, str, str, int], Opened] = field(default_factory=dict)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _recent: dict[tuple[str, int | None], Opened] = field(default_factory=dict)

    async def of(self, model: Model) -> Opened:
        """The embedder that makes vectors of `model`.

        Raises:
            ConfigurationError: this server lacks what it needs, such as a key or weights.
            ModelMismatchError: what is here under that name is another revision.
        """
        if found := self._opened.get(model.identity):
            return found
        async with self._opening:
            if found := self._opened.get(model.identity):
                return found
            embedder, limiter = await wiring.open_for(self.settings, model, log.info)
            if embedder.model.identity != model.identity:
                await embedder.aclose()
                raise errors.ModelMismatchError(
                    f"The collection is embedded with {model} revision {model.revision}; this "
                    f"server has {embedder.model} revision {embedder.model.revision}. Run the "
                    "Backline that embedded it, or: backline model use."
                )
            opened = Opened(SharedEmbedder(embedder, self.metrics), limiter)
            self._opened[model.identity] = opened
            return opened

    def recent(self, name: str, dimensions: int | None) -> Opened | None:
        """What `named` found for these before; a model once open stays what it is."""
        return self._recent.get((name, dimensions))

    async def named(self, name: str, dimensions: int | None, used: Iterable[Model]) -> Opened:
        """The model that a caller of the OpenAI API means; `used` are those of the collections.

        Raises:
            ModelNotFoundError: this server has none of that name, or not with those dimensions.
        """
        if name.partition("@")[0] == "hash":
            return self._keep(name, dimensions, self._hash(name, dimensions))
        known = await self.known(used)
        wanted = [m for m in known if name in _names_of(m)]
        fitting = [m for m in wanted if dimensions in (None, m.dimensions)]
        if fitting:
            return self._keep(name, dimensions, await self.of(fitting[0]))
        if wanted and wanted[0].provider == "openai":
            shorter = describe(f"openai/{wanted[0].name}@{dimensions}")
            assert shorter is not None  # noqa: S101  dimensions are given
            return await self.of(shorter)
        if wanted:
            raise errors.UsageError(
                f"{name} gives {wanted[0].dimensions} dimensions, and {dimensions} were asked for. "
                "Leave dimensions out."
            )
        raise errors.ModelNotFoundError(
            f"This server has no model {name!r}. It has: {', '.join(map(name_of, known))}, hash."
        )

    def _keep(self, name: str, dimensions: int | None, opened: Opened) -> Opened:
        self._recent[name, dimensions] = opened
        if len(self._recent) > MOST_RECENT:
            self._recent.pop(next(iter(self._recent)))
        return opened

    def _hash(self, name: str, dimensions: int | None) -> Opened:
        """Free to make; the number of dimensions is the caller's choice."""
        given = parse_spec(name).dimensions
        if given is not None and dimensions not in (None, given):
            raise errors.UsageError(
                f"{name} gives {given} dimensions, and {dimensions} were asked for."
            )
        embedder = HashEmbedder(dimensions or given or 384)
        if found := self._opened.get(embedder.model.identity):
            return found
        return Opened(SharedEmbedder(embedder, self.metrics), Limiter())

    async def known(self, used: Iterable[Model]) -> list[Model]:
        """Models that callers may use: those of the collections, and local ones that are here."""
        there = await asyncio.to_thread(_cached_locally)
        found = {model.identity: model for model in [*used, *there]}
        return [m for m in found.values() if self._can_open(m)]

    def _can_open(self, model: Model) -> bool:
        try:
            wiring.spec_of(self.settings, model)
        except errors.ConfigurationError:
            return False
        options = self.settings
        return model.provider != "openai" or bool(options.openai_api_key or options.openai_base_url)

    async def aclose(self) -> None:
        for opened in self._opened.values():
            await opened.embedder.aclose()
        self._opened.clear()
        self._recent.clear()


def name_of(model: Model) -> str:
    """How a model is named to API callers, as `--model` takes it."""
    return (
        f"hash@{model.dimensions}" if model.provider == "hash" else f"{model.provider}/{model.name}"
    )


def _names_of(model: Model) -> set[str]:
    """Every name that a caller may use; plain "hash" is no collection's, whatever it has."""
    full = name_of(model)
    return {full} if model.provider == "hash" else {full, model.name}


def _cached_locally() -> list[Model]:
    from backline.embedders import local

    return [
        Model("local", m.info.name, m.info.short_revision, m.info.dimensions, m.info.max_tokens)
        for m in local.list_models()
        if m.cached
    ]
