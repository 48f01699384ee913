"""The registry of providers and models: `providers.toml`, `models.toml`, and declared models.

The files say what each member means. A `[[models]]` entry of `backline.toml` has the same form and
takes precedence over an entry of the same name.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backline.errors import ConfigurationError
from backline.types import Model, Purpose

DEFAULT_MAX_TOKENS: Final = 8192
"""The longest text of a model that the registry does not have."""

MOST_DIMENSIONS: Final = 16_000
"""Limit of a pgvector column."""

# Providers without a server of their own, which no entry of providers.toml describes.
_WITHOUT_SERVER: Final = ("local", "supabase")
# Providers publish no revisions: a name refers to one set of weights.
_REVISION: Final = "v1"

Strings: TypeAlias = Annotated[tuple[str, ...], Field(strict=False)]
Wire: TypeAlias = Literal["openai", "cohere", "gemini", "ollama", "tei"]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LimitHeaders(_Entry):
    """Names of the rate-limit headers of a response; None for those that it does not have."""

    requests: str | None = None
    requests_remaining: str | None = None
    requests_reset: str | None = None
    tokens: str | None = None
    tokens_remaining: str | None = None
    tokens_reset: str | None = None


class Fields(_Entry):
    """Members of a request in OpenAI's form; None for what the server does not take."""

    dimensions: str | None = None
    type: str | None = None
    encoding: str | None = None


class ProviderEntry(_Entry):
    """One provider. `providers.toml` says what each member means."""

    title: str
    wire: Wire
    base_url: str | None = None
    path: str = ""
    keys: Strings = ()
    addresses: Strings = ()
    key_header: str | None = None
    key_required: bool = False
    self_hosted: bool = False
    models_of: str | None = None
    fields: Fields = Fields()
    body: dict[str, Any] = {}
    query_type: str | None = None
    passage_type: str | None = None
    max_inputs: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    price: float | None = None
    limits: LimitHeaders = LimitHeaders()
    means: dict[str, int] = {}
    checked: date

    def needs_key(self, base_url: str | None) -> bool:
        """Return whether a call to `base_url`, or to the provider itself, needs a key."""
        return self.key_required and (self.base_url is None or base_url in (None, self.base_url))


class ModelEntry(_Entry):
    """One model. `models.toml` says what each member means."""

    id: str | None = Field(None, pattern=r"^[a-z]+/[^@\s]+$")
    repository: str | None = Field(None, pattern=r"^[^/\s]+/[^/\s]+$")
    aliases: Strings = ()
    revision: str | None = None
    dimensions: int = Field(ge=1, le=MOST_DIMENSIONS)
    choices: Annotated[tuple[int, ...], Field(strict=False)] = ()
    range: Annotated[tuple[int, int], Field(strict=False)] | None = None
    max_tokens: int = Field(DEFAULT_MAX_TOKENS, ge=1)
    max_request_tokens: int | None = Field(None, ge=1)
    query: str = ""
    passage: str = ""
    query_type: str | None = None
    passage_type: str | None = None
    price: float | None = Field(None, ge=0)
    license: str | None = None
    ends: date | None = None
    successor: str | None = None
    checked: date | None = None
    pooling: Literal["mean", "cls"] = "mean"
    sha256: dict[str, str] = {}
    wheel: str | None = None
    extra: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for complaint in self._complaints():
            raise ValueError(complaint)
        return self

    def _complaints(self) -> Iterator[str]:
        if self.id is None and self.repository is None:
            yield "has neither id (PROVIDER/NAME) nor repository; write one"
        if self.id is not None and self.provider not in (*providers(), *_WITHOUT_SERVER):
            yield f"names no provider; there are {', '.join((*providers(), 'local'))}"
        if self.provider == "local" and not (self.repository and self.revision):
            yield "is a local model; write its repository and revision (the commit) on the hub"
        if self.choices and self.range is not None:
            yield "has choices and range; write one of them"
        if not self.allows(self.dimensions):
            yield f"has {self.dimensions} dimensions, which its choices or its range leave out"

    @property
    def provider(self) -> str | None:
        return None if self.id is None else self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """The name without the provider, or the repository."""
        return self.id.partition("/")[2] if self.id else str(self.repository)

    def allows(self, dimensions: int) -> bool:
        """Return whether the model returns that many dimensions."""
        if self.range is not None:
            return self.range[0] <= dimensions <= self.range[1]
        return dimensions in (self.choices or (self.dimensions,))

    @property
    def allowed(self) -> str:
        """The dimensions that may be requested, for messages."""
        if self.range is not None:
            return f"{self.range[0]} to {self.range[1]}"
        return ", ".join(map(str, self.choices or (self.dimensions,)))

    @property
    def names(self) -> tuple[str, ...]:
        """What self-hosted servers call the model, in lower case; nothing without a repository."""
        if self.repository is None:
            return ()
        every = (self.repository, self.repository.partition("/")[2], *self.aliases)
        return tuple(each.lower() for each in every)

    def is_named(self, name: str) -> bool:
        """Return whether a self-hosted server means this model by `name`, with or without a tag."""
        lower = name.lower()
        return lower in self.names or lower.partition(":")[0] in self.names


@dataclass(frozen=True, slots=True)
class Prompts:
    """What marks the texts of a model as queries and passages.

    Attributes:
        query: the prefix of a query; `passage` likewise.
        query_type: what the wire sends as the type of queries, or None; `passage_type` likewise.
    """

    query: str = ""
    passage: str = ""
    query_type: str | None = None
    passage_type: str | None = None

    def prefix(self, purpose: Purpose) -> str:
        """Return what precedes a text of this purpose."""
        return self.query if purpose == "query" else self.passage

    def type(self, purpose: Purpose) -> str | None:
        """Return the type that the wire sends with a text of this purpose."""
        return self.query_type if purpose == "query" else self.passage_type


@dataclass(frozen=True, slots=True)
class AnnouncedEnd:
    """The day on which a provider ends a model, as known on the day `checked`."""

    provider: str
    model: str
    ends: date
    successor: str | None
    checked: date | None

    def sentence(self, today: date) -> str:
        """Return what the provider has announced."""
        ends = "ends" if today < self.ends else "ended"
        checked = f", as announced by {self.checked}" if self.checked else ""
        return f"{self.provider} {ends} {self.model} on {self.ends}{checked}."


# --- entries --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def providers() -> Mapping[str, ProviderEntry]:
    """Return the providers by name."""
    return {
        name: ProviderEntry.model_validate(raw) for name, raw in _read("providers.toml").items()
    }


def provider(name: str) -> ProviderEntry | None:
    """Return a provider, or None for one that calls no server, such as `local`."""
    return providers().get(name)


@lru_cache(maxsize=1)
def _shipped() -> tuple[ModelEntry, ...]:
    return tuple(parse_models(_read("models.toml")["models"], "models.toml"))


def _read(file: str) -> dict[str, Any]:
    return tomllib.loads(files("backline.data").joinpath(file).read_text(encoding="utf-8"))


_declared: tuple[ModelEntry, ...] = ()


def declare(models: Sequence[ModelEntry]) -> None:
    """Replace the models that the project declares itself."""
    global _declared  # noqa: PLW0603  read by every function that takes a model's name
    _declared = tuple(models)


def models() -> tuple[ModelEntry, ...]:
    """Return every model; declared ones first, without the shipped ones that they replace."""
    names = {each.id or each.repository for each in _declared}
    return (*_declared, *(each for each in _shipped() if (each.id or each.repository) not in names))


def parse_models(raw: object, file: str) -> list[ModelEntry]:
    """Return the entries of the array `models` of a file.

    Raises:
        ConfigurationError: an entry is invalid; the message names it and the remedy.
    """
    if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
        raise ConfigurationError(f"{file}: models is no array of tables. Write: [[models]].")
    return [_parse_model(each, f"{file}, models entry {n}") for n, each in enumerate(raw, 1)]


def _parse_model(raw: dict[str, Any], where: str) -> ModelEntry:
    try:
        return ModelEntry.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_problem(each) for each in error.errors())
        name = raw.get("id") or raw.get("repository")
        label = f"{where} ({name})" if isinstance(name, str) else where
        raise ConfigurationError(f"{label}: {problems}.") from None


def _problem(error: Any) -> str:
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        close = get_close_matches(field, ModelEntry.model_fields, 1)
        hint = f"did you mean {close[0]}?" if close else "see docs/reference/providers.md"
        return f"there is no field {field}; {hint}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{field} {message[:1].lower()}{message[1:]}" if field else message


# --- look-ups -------------------------------------------------------------------------------------


def find(provider_name: str, name: str) -> ModelEntry | None:
    """Return the entry of a model, or None.

    A self-hosted server names open weights as it likes: by repository, by the repository's last
    part, or as Ollama does.
    """
    entry = provider(provider_name)
    owners = {provider_name, entry.models_of if entry else None}
    for each in models():
        if each.id is not None and each.provider in owners and each.name == name:
            return each
    if entry is None or not entry.self_hosted:
        return None
    return next((each for each in models() if each.is_named(name)), None)


def prompts(provider_name: str, name: str) -> Prompts:
    """Return what marks the queries and passages of a model on every path that embeds them."""
    entry, model = provider(provider_name), find(provider_name, name)
    return Prompts(
        query=model.query if model else "",
        passage=model.passage if model else "",
        query_type=_type("query_type", model, entry),
        passage_type=_type("passage_type", model, entry),
    )


def _type(field: str, *entries: ModelEntry | ProviderEntry | None) -> str | None:
    """Return the model's own type, or else its provider's. An empty one is no type."""
    values: list[str | None] = [getattr(each, field) for each in entries if each is not None]
    return next((value for value in values if value is not None), None) or None


def revision(provider_name: str, name: str) -> str:
    """Return the revision of a provider's model, which changes with what marks its passages.

    Vectors of passages with another prefix or type do not compare, although the name is the same.
    """
    marks = prompts(provider_name, name)
    if not (marks.passage or marks.passage_type):
        return _REVISION
    text = f"{marks.passage_type or ''}\n{marks.passage}"
    return f"{_REVISION}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def describe(provider_name: str, name: str, dimensions: int | None = None) -> Model | None:
    """Return the identity of a provider's model with requested or published dimensions.

    Returns:
        The Model, or None for a model without an entry and without `dimensions`.

    Raises:
        ConfigurationError: the model cannot return that many dimensions.
    """
    entry = find(provider_name, name)
    if dimensions is not None and dimensions < 1:
        raise ConfigurationError(f"{name} cannot return {dimensions} dimensions; the least is 1.")
    if entry is None:
        return None if dimensions is None else identity(provider_name, name, dimensions)
    if dimensions is not None and not entry.allows(dimensions):
        raise ConfigurationError(
            f"{name} cannot return {dimensions} dimensions; it returns {entry.allowed}."
        )
    return identity(provider_name, name, dimensions or entry.dimensions)


def identity(provider_name: str, name: str, dimensions: int) -> Model:
    """Return the identity of a provider's model that returns `dimensions`."""
    entry = find(provider_name, name)
    return Model(
        provider_name,
        name,
        revision(provider_name, name),
        dimensions,
        entry.max_tokens if entry else DEFAULT_MAX_TOKENS,
    )


def price(provider_name: str, name: str) -> float | None:
    """Return dollars per million tokens: 0 on machines of one's own, None if it is unknown."""
    entry = provider(provider_name)
    if entry is None:
        return 0.0
    known = find(provider_name, name)
    return known.price if known and known.price is not None else entry.price


def most_request_tokens(model: Model) -> int | None:
    """Return the most tokens of one request, or None if the provider states no limit."""
    entry, known = provider(model.provider), find(model.provider, model.name)
    own = known.max_request_tokens if known else None
    return own or (entry.max_tokens if entry else None)


def announced_end(model: Model) -> AnnouncedEnd | None:
    """Return the end of a model that its provider has announced, or None."""
    entry, known = provider(model.provider), find(model.provider, model.name)
    if entry is None or known is None or known.ends is None:
        return None
    return AnnouncedEnd(entry.title, model.name, known.ends, known.successor, known.checked)
