"""Load a local model by its spec: weights, tokenizer and engine."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

from backline import extras
from backline.embedders.local.bert import read_bert, read_config
from backline.embedders.local.catalog import (
    DEFAULT_MODEL,
    MODEL_FILES,
    TOKENIZER_FILE,
    ModelInfo,
    Pooling,
    find_model,
    models,
)
from backline.embedders.local.cpus import usable_cpus
from backline.embedders.local.embedder import LocalEmbedder
from backline.embedders.local.engines.select import ENGINES, start_engine
from backline.embedders.local.tokenizers.base import TextTokenizer
from backline.embedders.local.tokenizers.wordpiece import WordPieceTokenizer, read_settings
from backline.embedders.local.weights import find_weights, pull, sha256_of
from backline.errors import ConfigurationError, WeightsError


async def open_local(
    spec: str = DEFAULT_MODEL, *, engine: str = "auto", threads: int | None = None
) -> LocalEmbedder:
    """Open a local model, and pull its weights first if they are not in the cache.

    Args:
        spec: the name of a model in the catalog, or `local:` and the path of a folder that holds
            config.json, tokenizer.json and model.safetensors of any BERT-family encoder.
        engine: one of `ENGINES`; "auto" selects the fastest that runs on this machine.
        threads: processor threads; the default is all that the process may use.

    Raises:
        ModelNotFoundError: the catalog has no such model.
        WeightsError: the weights are missing, damaged, or cannot be pulled.
        ConfigurationError: no such engine, or fewer than 1 thread.
        MissingExtraError: the tokenizer is not WordPiece, and `tokenizers` is not installed.
    """
    if engine not in ENGINES:
        raise ConfigurationError(f"There is no engine {engine!r}. Use one of {', '.join(ENGINES)}.")
    if threads is not None and threads < 1:
        raise ConfigurationError(f"threads is {threads}; it must be 1 or more.")
    return await asyncio.to_thread(_open, spec, engine, threads or usable_cpus())


def _open(spec: str, engine: str, threads: int) -> LocalEmbedder:
    info, folder = _locate(spec)
    tokenizer = open_tokenizer(folder / TOKENIZER_FILE, info.max_tokens)
    size = sum((folder / name).stat().st_size for name in MODEL_FILES)
    running = start_engine(engine, read_bert(folder, info.pooling), threads)
    return LocalEmbedder(info, running, tokenizer, size_bytes=size)


def open_tokenizer(path: Path, max_tokens: int) -> TextTokenizer:
    """Open the tokenizer of a tokenizer.json: BERT's WordPiece, or any kind through `tokenizers`.

    Raises:
        WeightsError: the file is not a tokenizer.
        MissingExtraError: the tokenizer is not WordPiece, and `tokenizers` is not installed.
    """
    try:
        settings = read_settings(_read_json(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a readable tokenizer: {error!r}") from error
    if settings is not None:
        return WordPieceTokenizer(settings, max_tokens)
    extras.require("tokenizers")
    from backline.embedders.local.tokenizers.huggingface import HuggingFaceTokenizer

    return HuggingFaceTokenizer(path, max_tokens)


def _locate(spec: str) -> tuple[ModelInfo, Path]:
    name = spec.removeprefix("local:")
    if spec.startswith("local:") and name not in models():
        folder = Path(name).expanduser()
        return describe_folder(folder), folder
    info = find_model(name)
    try:
        return info, find_weights(info)
    except WeightsError:
        return info, pull(info.name)


def describe_folder(folder: Path) -> ModelInfo:
    """Return the conventions of the model in `folder`.

    A folder with the name of a model in the catalog uses that model's conventions. Otherwise,
    pooling and length come from the sentence-transformers files beside the weights, and default to
    mean pooling and the model's own limit. The revision is the hash of the files.

    Raises:
        WeightsError: a file is missing or unreadable.
    """
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise WeightsError(
            f"{folder} holds no {', '.join(missing)}. A model folder has {', '.join(MODEL_FILES)}."
        )
    config, entry = read_config(folder), models().get(folder.resolve().name)
    limit = _max_tokens(folder, entry)
    return ModelInfo(
        name=folder.resolve().name,
        repository=entry.repository if entry else "",
        revision=_content_revision(folder),
        dimensions=config.hidden_size,
        max_tokens=min(limit or config.max_tokens, config.max_tokens),
        pooling=_pooling(folder, entry),
        query_prefix=entry.query_prefix if entry else "",
        passage_prefix=entry.passage_prefix if entry else "",
    )


def _content_revision(folder: Path) -> str:
    digests = "".join(sha256_of(folder / name) for name in MODEL_FILES)
    return hashlib.sha256(digests.encode()).hexdigest()


def _pooling(folder: Path, entry: ModelInfo | None) -> Pooling:
    raw = _read_json(folder / "1_Pooling" / "config.json")
    if not raw:
        return entry.pooling if entry else "mean"
    if raw.get("pooling_mode_cls_token"):
        return "cls"
    if raw.get("pooling_mode_mean_tokens"):
        return "mean"
    raise WeightsError(f"{folder} needs a pooling that is neither mean nor cls.")


def _max_tokens(folder: Path, entry: ModelInfo | None) -> int | None:
    if entry:
        return entry.max_tokens
    limit = _read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    return limit if isinstance(limit, int) else None


def _read_json(path: Path) -> dict[str, object]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    return raw if isinstance(raw, dict) else {}
