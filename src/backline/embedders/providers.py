"""Parse embedder specifications, such as `openai/text-embedding-3-small@512`, and open them.

`PROVIDERS` lists every provider: its functions to parse, describe and open a specification, and
how its embedders are best called. CONTRIBUTING.md lists the steps to add one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from backline import extras
from backline.embedders import registry
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder, hash_model
from backline.embedders.limiter import Limits
from backline.embedders.openai.models import DEFAULT_MODEL, is_openai
from backline.embedders.prompts import with_prompts
from backline.errors import ConfigurationError, ModelNotFoundError, command
from backline.types import Model

if TYPE_CHECKING:
    from backline.embedders.openai.tokens import TokenCounter

DEFAULT_LOCAL_MODEL = "all-MiniLM-L6-v2"
DEFAULT_HASH_DIMENSIONS = 384
# Sent to servers that need no key, because the SDK requires one.
_PLACEHOLDER_KEY = "no-key-needed"
DEFAULT_SUPABASE_MODEL = "gte-small"


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """A parsed specification. `str()` returns its canonical form, which parses to an equal spec.

    Attributes:
        name: of the model; for a local folder, `local:` and its path.
        dimensions: the requested dimensions, or None for the model's default.
    """

    provider: str
    name: str
    dimensions: int | None = None

    def __str__(self) -> str:
        suffix = "" if self.dimensions is None else f"@{self.dimensions}"
        if self.name.startswith("local:"):
            return self.name
        return f"{'hash' if self.provider == 'hash' else f'{self.provider}/{self.name}'}{suffix}"


@dataclass(frozen=True, slots=True)
class EmbedderOptions:
    """How to reach and run an embedder. Each provider uses the options that apply to it.

    Attributes:
        api_key: of the provider.
        base_url: another address than the provider's own; its server may need no key.
        timeout_s: time limit of one call to a provider.
        local_engine: engine for local models; "auto" selects the fastest available.
        local_threads: processor threads of a local model; None uses all.
        on_limits: called with the rate limits in a provider's response.
    """

    api_key: SecretStr | str | None = field(default=None, repr=False)
    base_url: str | None = None
    timeout_s: float = 60.0
    local_engine: str = "auto"
    local_threads: int | None = None
    on_limits: Callable[[Limits], None] | None = None


def parse_spec(text: str) -> EmbedderSpec:
    """Parse a specification.

    Raises:
        ModelNotFoundError: the form, the provider or the model does not exist.
        ConfigurationError: the dimensions are out of range.
    """
    text = text.strip()
    if text.startswith("local:") and text != "local:":
        return EmbedderSpec("local", text)
    match = re.fullmatch(r"([a-z]+)(?:/([^@]+))?(?:@([0-9]{1,6}))?", text)
    if match is None or match[1] not in PROVIDERS:
        raise _no_model(text)
    provider, name, digits = match.groups()
    return PROVIDERS[provider].parse(text, name, int(digits) if digits else None)


def _no_model(text: str) -> ModelNotFoundError:
    ids = [each.id for each in registry.models() if each.id]
    close = get_close_matches(text, ids, 1)
    meant = f" Did you mean {close[0]}?" if close else ""
    return ModelNotFoundError(f"There is no model {text!r}.{meant} {available()}")


def available() -> str:
    """Return one line for error messages that lists the forms, the providers and local models."""
    local = ", ".join(each.name for each in registry.models() if each.provider == "local")
    return (
        "A model is given as: local/NAME, local:/path/to/folder, hash@DIMENSIONS, PROVIDER/NAME, "
        f"PROVIDER/NAME@DIMENSIONS. Local models: {local}. Providers: "
        f"{', '.join([*registry.providers(), 'supabase'])}. Their models: "
        f"{command('model', 'list', '--all')}."
    )


async def open_embedder(
    spec: EmbedderSpec | str, options: EmbedderOptions | None = None
) -> Embedder:
    """Open the embedder of a specification. The caller closes it with `aclose()`.

    Raises:
        ModelNotFoundError: there is no such model.
        ConfigurationError: an option is missing or invalid, such as OPENAI_API_KEY.
        MissingExtraError: the provider needs an extra that is not installed.
        WeightsError: the weights of a local model are missing and cannot be fetched.
        EmbedderError: a server did not return the dimensions of its model.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    return await PROVIDERS[spec.provider].open(spec, options or EmbedderOptions())


def describe(spec: EmbedderSpec | str) -> Model | None:
    """Return the identity of a model without opening it, to detect a mismatch at no cost.

    Returns:
        The Model, or None if it is known only after opening: a local folder, or another server's
        model without dimensions.

    Raises:
        ModelNotFoundError: there is no such model.
        ConfigurationError: the model does not support the requested dimensions.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    return PROVIDERS[spec.provider].describe(spec)


def spec_of(model: Model, folder: Path | None = None) -> EmbedderSpec:
    """Return the specification that opens `model` again.

    Args:
        model: as a collection records it.
        folder: the folder of a local model that is not in the catalog.

    Raises:
        ConfigurationError: the model is from a folder, and `folder` is None.
    """
    return PROVIDERS.get(model.provider, PROVIDERS["local"]).spec(model, folder)


def shortens(model: Model) -> bool:
    """Return whether the first components of a vector of a model are its shorter vector."""
    entry = registry.find(model.provider, model.name)
    return entry is not None and bool(entry.choices or entry.range)


def waits_on_network(model: Model) -> bool:
    """Return whether a call waits for a server, so that many calls should be in flight."""
    return model.provider in PROVIDERS and PROVIDERS[model.provider].remote


def _spec_with_dimensions(model: Model, _folder: Path | None) -> EmbedderSpec:
    return EmbedderSpec(model.provider, model.name, model.dimensions)


# --- local ----------------------------------------------------------------------------------------


def _parse_local(text: str, name: str | None, dimensions: int | None) -> EmbedderSpec:
    if dimensions is not None:
        raise ConfigurationError(
            f"{text}: the dimensions of a local model are fixed. Leave off @{dimensions}."
        )
    return EmbedderSpec("local", name or DEFAULT_LOCAL_MODEL)


def _describe_local(spec: EmbedderSpec) -> Model | None:
    from backline.embedders.local.catalog import find_model

    if spec.name.startswith("local:"):
        return None
    info = find_model(spec.name)
    return Model("local", info.name, info.short_revision, info.dimensions, info.max_tokens)


def _spec_local(model: Model, folder: Path | None) -> EmbedderSpec:
    if registry.find("local", model.name) is not None:
        return EmbedderSpec("local", model.name)
    if folder is None:
        raise ConfigurationError(
            f"{model.provider}/{model.name} is a model folder of your own. Name the folder on this "
            "machine: BACKLINE_LOCAL_MODEL_FOLDER=/path/to/folder."
        )
    return EmbedderSpec("local", f"local:{folder}")


async def _open_local(spec: EmbedderSpec, options: EmbedderOptions) -> Embedder:
    from backline.embedders.local import open_local

    return await open_local(spec.name, engine=options.local_engine, threads=options.local_threads)


# --- hash -----------------------------------------------------------------------------------------


def _parse_hash(text: str, name: str | None, dimensions: int | None) -> EmbedderSpec:
    if name is not None:
        raise _no_model(text)
    hash_model(DEFAULT_HASH_DIMENSIONS if dimensions is None else dimensions)
    return EmbedderSpec("hash", "hash", dimensions)


def _describe_hash(spec: EmbedderSpec) -> Model:
    return hash_model(spec.dimensions or DEFAULT_HASH_DIMENSIONS)


async def _open_hash(spec: EmbedderSpec, _options: EmbedderOptions) -> Embedder:
    return HashEmbedder(spec.dimensions or DEFAULT_HASH_DIMENSIONS)


# --- openai ---------------------------------------------------------------------------------------


def _parse_openai(_text: str, name: str | None, dimensions: int | None) -> EmbedderSpec:
    registry.describe("openai", name or DEFAULT_MODEL, dimensions)
    return EmbedderSpec("openai", name or DEFAULT_MODEL, dimensions)


def _describe_served(spec: EmbedderSpec) -> Model | None:
    return registry.describe(spec.provider, spec.name, spec.dimensions)


async def _open_openai(spec: EmbedderSpec, options: EmbedderOptions) -> Embedder:
    extras.require("openai")
    from backline.embedders.openai.embedder import OpenAIEmbedder

    embedder = await OpenAIEmbedder.open(
        spec.name,
        spec.dimensions,
        base_url=options.base_url,
        api_key=_require_key(options),
        timeout=options.timeout_s,
        on_limits=options.on_limits,
    )
    return with_prompts(embedder, registry.prompts("openai", spec.name))


def _require_key(options: EmbedderOptions) -> SecretStr | str:
    key = options.api_key
    if key:
        return key
    if is_openai(options.base_url):
        raise ConfigurationError(
            "OpenAI needs a key: set OPENAI_API_KEY. Local models are free and need none, and "
            "OPENAI_BASE_URL selects another server with OpenAI's API."
        )
    return _PLACEHOLDER_KEY


# --- other servers --------------------------------------------------------------------------------


def _parse_served(text: str, name: str | None, dimensions: int | None) -> EmbedderSpec:
    provider = re.split("[/@]", text, maxsplit=1)[0]
    if name is None:
        raise _no_model(text)
    registry.describe(provider, name, dimensions)
    return EmbedderSpec(provider, name, dimensions)


async def _open_served(spec: EmbedderSpec, options: EmbedderOptions) -> Embedder:
    from backline.embedders.http.embedder import HttpEmbedder

    key = options.api_key
    embedder = await HttpEmbedder.open(
        spec.provider,
        spec.name,
        spec.dimensions,
        base_url=options.base_url,
        api_key=key.get_secret_value() if isinstance(key, SecretStr) else key,
        timeout=options.timeout_s,
        on_limits=options.on_limits,
        counter=await _counter(spec),
    )
    return with_prompts(embedder, registry.prompts(spec.provider, spec.name))


async def _counter(spec: EmbedderSpec) -> TokenCounter | None:
    """Return the exact counter of OpenAI's models at Azure, if its vocabulary is on the machine."""
    entry = registry.providers()[spec.provider]
    if entry.models_of != "openai" or not extras.installed("openai"):
        return None
    from backline.embedders.openai.tokens import load_counter

    return await asyncio.to_thread(load_counter, may_download=False)


# --- supabase -------------------------------------------------------------------------------------


def _parse_supabase(text: str, name: str | None, dimensions: int | None) -> EmbedderSpec:
    if name not in (None, DEFAULT_SUPABASE_MODEL) or dimensions is not None:
        raise _no_model(text)
    return EmbedderSpec("supabase", DEFAULT_SUPABASE_MODEL)


def _describe_supabase(spec: EmbedderSpec) -> Model | None:
    known = registry.find("supabase", spec.name)
    if known is None:
        return None
    revision = known.revision or ""
    return Model("supabase", spec.name, revision, known.dimensions, known.max_tokens)


def _spec_supabase(model: Model, _folder: Path | None) -> EmbedderSpec:
    return EmbedderSpec("supabase", model.name)


async def _open_supabase(_spec: EmbedderSpec, _options: EmbedderOptions) -> Embedder:
    raise ConfigurationError(
        "supabase/gte-small runs in Supabase's Edge Runtime only. Backfill with: --via edge. "
        "Search by keywords, --mode keyword, or from another Edge Function."
    )


@dataclass(frozen=True, slots=True)
class _Provider:
    """One provider.

    Attributes:
        parse: takes the text, the model's name and the dimensions.
        describe: see `describe`.
        open: see `open_embedder`.
        spec: see `spec_of`.
        remote: whether a call waits for a server. The defaults then are more concurrent calls, and
            fewer rows claimed ahead.
    """

    parse: Callable[[str, str | None, int | None], EmbedderSpec]
    describe: Callable[[EmbedderSpec], Model | None]
    open: Callable[[EmbedderSpec, EmbedderOptions], Awaitable[Embedder]]
    spec: Callable[[Model, Path | None], EmbedderSpec] = _spec_with_dimensions
    remote: bool = False


PROVIDERS: Final[dict[str, _Provider]] = {
    "local": _Provider(_parse_local, _describe_local, _open_local, _spec_local),
    "hash": _Provider(_parse_hash, _describe_hash, _open_hash),
    **dict.fromkeys(
        registry.providers(),
        _Provider(_parse_served, _describe_served, _open_served, remote=True),
    ),
    "openai": _Provider(_parse_openai, _describe_served, _open_openai, remote=True),
    "supabase": _Provider(_parse_supabase, _describe_supabase, _open_supabase, _spec_supabase),
}
