"""The models of OpenAI's embeddings API."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from backline.errors import ConfigurationError
from backline.types import Model

PROVIDER = "openai"
DEFAULT_MODEL = "text-embedding-3-small"
DEFAULT_BASE_URL = "https://api.openai.com/v1"
MAX_TOKENS = 8192
# OpenAI publishes no revisions of embedding models: a name refers to one set of weights, and new
# weights have a new name.
_REVISION = "v1"


@dataclass(frozen=True, slots=True)
class OpenAIModel:
    """A model's name, its full dimensions, and whether it can return fewer."""

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
    """Return the identity of a model with given or published dimensions.

    Returns:
        The Model, or None for another server's model without `dimensions`, which its server knows.

    Raises:
        ConfigurationError: the model cannot return that many dimensions.
    """
    entry = OPENAI_MODELS.get(name)
    if dimensions is not None and dimensions < 1:
        raise ConfigurationError(f"{name} cannot return {dimensions} dimensions; the least is 1.")
    if entry is None:
        return None if dimensions is None else as_model(name, dimensions)
    if dimensions is not None and not _supports(entry, dimensions):
        fewer = "1 to " if entry.can_shorten else ""
        raise ConfigurationError(
            f"{name} cannot return {dimensions} dimensions; it returns {fewer}{entry.dimensions}."
        )
    return as_model(name, dimensions or entry.dimensions)


def as_model(name: str, dimensions: int) -> Model:
    return Model(PROVIDER, name, _REVISION, dimensions, MAX_TOKENS)


def is_openai(base_url: str | None) -> bool:
    """Return whether `base_url` is OpenAI's API, in any region."""
    host = urlsplit(base_url or DEFAULT_BASE_URL).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def _supports(model: OpenAIModel, dimensions: int) -> bool:
    return dimensions == model.dimensions or (model.can_shorten and dimensions < model.dimensions)
