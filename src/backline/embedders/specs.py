"""From a specification, such as `openai/text-embedding-3-small@512`, to an embedder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pydantic import SecretStr

from backline import extras
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder, hash_model
from backline.embedders.limiter import Limits
from backline.embedders.openai.models import (
    DEFAULT_MODEL,
    OPENAI_MODELS,
    PROVIDER,
    is_openai,
    openai_model,
)
from backline.errors import ConfigurationError, ModelNotFoundError
from backline.types import Model

Provider: TypeAlias = Literal["local", "hash", "openai", "supabase"]

DEFAULT_LOCAL_MODEL = "all-MiniLM-L6-v2"
DEFAULT_HASH_DIMENSIONS = 384
# What a server without accounts is sent, because the SDK insists on a key.
_PLACEHOLDER_KEY = "no-key-needed"
_FORMS = (
    "local, local/NAME, local:/path/to/folder, hash, hash@DIMENSIONS, "
    "openai, openai/NAME, openai/NAME@DIMENSIONS, supabase/gte-small"
)
# What Supabase's Edge Runtime has in it. Nobody promises that its vectors are those of the weights
# of that name on a hub, so the model is another one, and runs nowhere else.
SUPABASE_MODEL = Model("supabase", "gte-small", "edge-runtime", 384, 512)


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """Which embedder is meant. `str()` gives its canonical form, which parses to the same.

    Attributes:
        name: of the model; for a local folder, `local:` and its path.
        dimensions: those asked for, or None for the model's own.
    """

    provider: Provider
    name: str
    dimensions: int | None = None

    def __str__(self) -> str:
        suffix = "" if self.dimensions is None else f"@{self.dimensions}"
        if self.name.startswith("local:"):
            return self.name
        return f"{'hash' if self.provider == 'hash' else f'{self.provider}/{self.name}'}{suffix}"


@dataclass(frozen=True, slots=True)
class EmbedderOptions:
    """How to reach and run an embedder, whichever it is; each uses what concerns it.

    Attributes:
        openai_base_url: another server that speaks OpenAI's API; it may need no key.
        timeout_s: for one call to a provider.
        local_engine: what computes a local model; "auto" takes the fastest there is.
        local_threads: processor threads of a local model; None takes all.
        on_limits: called with the rate limits that a provider's answer names.
    """

    openai_api_key: SecretStr | str | None = field(default=None, repr=False)
    openai_base_url: str | None = None
    timeout_s: float = 60.0
    local_engine: str = "auto"
    local_threads: int | None = None
    on_limits: Callable[[Limits], None] | None = None


def parse_spec(text: str) -> EmbedderSpec:
    """Read a specification.

    Raises:
        ModelNotFoundError: it is in none of the forms, or names a provider that there is not.
        ConfigurationError: the dimensions are out of range.
    """
    text = text.strip()
    if text.startswith("local:") and text != "local:":
        return EmbedderSpec("local", text)
    if text in ("supabase", "supabase/gte-small"):
        return EmbedderSpec("supabase", SUPABASE_MODEL.name)
    match = re.fullmatch(r"(local|hash|openai)(?:/([^@]+))?(?:@([0-9]{1,6}))?", text)
    if match is None:
        raise ModelNotFoundError(f"There is no model {text!r}. {available()}")
    provider, name, digits = match.groups()
    return _SPECS[provider](text, name, int(digits) if digits else None)


def available() -> str:
    """What can be asked for, as one line for an error message."""
    from backline.embedders.local.catalog import MODELS

    return (
        f"A model is given as: {_FORMS}. Local models: {', '.join(MODELS)}. "
        f"OpenAI models: {', '.join(OPENAI_MODELS)}."
    )


async def open_embedder(
    spec: EmbedderSpec | str, options: EmbedderOptions | None = None
) -> Embedder:
    """Open the embedder that `spec` names. The caller closes it with `aclose()`.

    Raises:
        ModelNotFoundError: there is no such model.
        ConfigurationError: an option is missing or wrong, OPENAI_API_KEY above all.
        MissingExtraError: what the provider needs is not installed.
        WeightsError: a local model's weights cannot be had.
        EmbedderError: a server was asked for its dimensions and did not say.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    options = options or EmbedderOptions()
    if spec.provider == "hash":
        return HashEmbedder(spec.dimensions or DEFAULT_HASH_DIMENSIONS)
    if spec.provider == "local":
        return await _open_local(spec, options)
    if spec.provider == "supabase":
        raise ConfigurationError(
            "supabase/gte-small runs in Supabase's Edge Runtime only. Backfill with: --via edge. "
            "Search by keywords, --mode keyword, or from another Edge Function."
        )
    return await _open_openai(spec, options)


def describe(spec: EmbedderSpec | str) -> Model | None:
    """The identity of a model without opening it, so that a mismatch costs nothing to find.

    Returns:
        The Model, or None where only opening it can tell: a local folder, or another server's
        model without dimensions.

    Raises:
        ModelNotFoundError: there is no such model.
        ConfigurationError: it cannot give the dimensions asked for.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    if spec.provider == "hash":
        return hash_model(spec.dimensions or DEFAULT_HASH_DIMENSIONS)
    if spec.provider == "openai":
        return openai_model(spec.name, spec.dimensions)
    if spec.provider == "supabase":
        return SUPABASE_MODEL
    return _describe_local(spec)


# --- one provider each ----------------------------------------------------------------------------


def _local_spec(text: str, name: str | None, dimensions: int | None) -> EmbedderSpec:
    if dimensions is not None:
        raise ConfigurationError(
            f"{text}: a local model has dimensions of its own. Leave off @{dimensions}."
        )
    return EmbedderSpec("local", name or DEFAULT_LOCAL_MODEL)


def _hash_spec(text: str, name: str | None, dimensions: int | None) -> EmbedderSpec:
    if name is not None:
        raise ModelNotFoundError(f"There is no model {text!r}. {available()}")
    hash_model(DEFAULT_HASH_DIMENSIONS if dimensions is None else dimensions)
    return EmbedderSpec("hash", "hash", dimensions)


def _openai_spec(_text: str, name: str | None, dimensions: int | None) -> EmbedderSpec:
    openai_model(name or DEFAULT_MODEL, dimensions)
    return EmbedderSpec("openai", name or DEFAULT_MODEL, dimensions)


_SPECS: dict[str, Callable[[str, str | None, int | None], EmbedderSpec]] = {
    "local": _local_spec,
    "hash": _hash_spec,
    PROVIDER: _openai_spec,
}


async def _open_local(spec: EmbedderSpec, options: EmbedderOptions) -> Embedder:
    from backline.embedders.local import open_local

    return await open_local(spec.name, engine=options.local_engine, threads=options.local_threads)


def _describe_local(spec: EmbedderSpec) -> Model | None:
    from backline.embedders.local.catalog import find_model

    if spec.name.startswith("local:"):
        return None
    info = find_model(spec.name)
    return Model("local", info.name, info.short_revision, info.dimensions, info.max_tokens)


async def _open_openai(spec: EmbedderSpec, options: EmbedderOptions) -> Embedder:
    extras.require("openai")
    from backline.embedders.openai.embedder import OpenAIEmbedder

    return await OpenAIEmbedder.open(
        spec.name,
        spec.dimensions,
        base_url=options.openai_base_url,
        api_key=_require_key(options),
        timeout=options.timeout_s,
        on_limits=options.on_limits,
    )


def _require_key(options: EmbedderOptions) -> SecretStr | str:
    key = options.openai_api_key
    if key:
        return key
    if is_openai(options.openai_base_url):
        raise ConfigurationError(
            "OpenAI needs a key: set OPENAI_API_KEY. Without one, the local models are free, "
            "and OPENAI_BASE_URL names any server that speaks OpenAI's API."
        )
    return _PLACEHOLDER_KEY
