"""The models of OpenAI's own embeddings API, known without asking it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from backline.errors import ConfigurationError
from backline.types import Model

PROVIDER = "openai"
DEFAULT_MODEL = "text-embedding-3-small"
DEFAULT_BASE_URL = "https://api.openai.com/v1"
MAX_TOKENS = 8192
# OpenAI publishes no revision of an embedding model: a name stands for one set of weights for
# ever, and new weights come under a new name.
_REVISION = "v1"


@dataclass(frozen=True, slots=True)
class OpenAIModel:
    """What is known of a model: its own dimensions, and whether it can give fewer."""

    name: str
    dimensions: int
    can_shorten: bool


OPENAI_MODELS = {
    model.name: model
    for model in (
        OpenAIModel("text-embedding-3-small", 1536, can_shorten=True),
        OpenAIModel("text-embedding-3-large", 3072, can_shorten=True),
        OpenAIModel("text-embedding-ada-002", 1536, can_shorten=False),
    )
}


def openai_model(name: str, dimensions: int | None = None) -> Model | None:
    """The identity of a model, as far as its dimensions are known or given.

    Returns:
        The Model, or None for an unknown name without `dimensions`: ask its server.

    Raises:
        ConfigurationError: the model cannot give that many dimensions.
    """
    known = OPENAI_MODELS.get(name)
    if dimensions is not None and dimensions < 1:
        raise ConfigurationError(
            f"{name} was asked for {dimensions} dimensions; it must be over 0."
        )
    if known is None:
        return None if dimensions is None else as_model(name, dimensions)
    if dimensions is not None and not _can_give(known, dimensions):
        fewer = "1 to " if known.can_shorten else ""
        raise ConfigurationError(
            f"{name} was asked for {dimensions} dimensions; it gives {fewer}{known.dimensions}."
        )
    return as_model(name, dimensions or known.dimensions)


def as_model(name: str, dimensions: int) -> Model:
    return Model(PROVIDER, name, _REVISION, dimensions, MAX_TOKENS)


def is_openai(base_url: str | None) -> bool:
    """Whether `base_url` is OpenAI's own API, in any of its regions."""
    host = urlsplit(base_url or DEFAULT_BASE_URL).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def _can_give(model: OpenAIModel, dimensions: int) -> bool:
    return dimensions == model.dimensions or (model.can_shorten and dimensions < model.dimensions)
