"""Read the configuration and the weights of a BERT encoder from a model folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from backline.embedders.local.catalog import CONFIG_FILE, WEIGHTS_FILE, Pooling
from backline.errors import WeightsError

Matrix = NDArray[np.float32]

_PAST_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Families with positions that start after the padding id. BERT's positions start at 0."""


@dataclass(frozen=True, slots=True)
class BertConfig:
    """Sizes of the encoder, named as in the model's config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    layer_norm_eps: float
    position_offset: int

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def max_tokens(self) -> int:
        """The longest input that has position embeddings."""
        return self.max_position_embeddings - self.position_offset


@dataclass(frozen=True, slots=True)
class Dense:
    """y = x @ weight.T + bias; weight has shape (outputs, inputs)."""

    weight: Matrix
    bias: Matrix


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Scale and shift of a layer normalization, both of shape (hidden,)."""

    scale: Matrix
    shift: Matrix


@dataclass(frozen=True, slots=True)
class Layer:
    """One encoder layer. `attention_in` concatenates query, key and value: (3 hidden, hidden)."""

    attention_in: Dense
    attention_out: Dense
    attention_norm: LayerNorm
    feed_in: Dense
    feed_out: Dense
    feed_norm: LayerNorm


@dataclass(frozen=True, slots=True)
class Bert:
    """An encoder. `positions` includes the embedding of token type 0 and starts at position 0."""

    config: BertConfig
    pooling: Pooling
    words: Matrix
    positions: Matrix
    embedding_norm: LayerNorm
    layers: tuple[Layer, ...]

    def without_layers(self) -> Bert:
        """Return the embedding tables alone, for an engine with its own copy of the layers."""
        return replace(self, layers=())


def read_config(folder: Path) -> BertConfig:
    """Parse config.json.

    Raises:
        WeightsError: the file is missing, or the engines cannot compute this model exactly.
    """
    path = folder / CONFIG_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        family = raw.get("model_type", "bert")
        if family not in ("bert", *_PAST_PADDING):
            raise WeightsError(f"{path} describes a {family!r} model; only BERT encoders are run.")
        if raw.get("hidden_act", "gelu") != "gelu":
            raise WeightsError(
                f"{path}: activation {raw['hidden_act']!r} is not supported, gelu is."
            )
        if raw.get("position_embedding_type", "absolute") != "absolute":
            raise WeightsError(f"{path}: only absolute position embeddings are supported.")
        return BertConfig(
            hidden_size=raw["hidden_size"],
            num_hidden_layers=raw["num_hidden_layers"],
            num_attention_heads=raw["num_attention_heads"],
            intermediate_size=raw["intermediate_size"],
            vocab_size=raw["vocab_size"],
            max_position_embeddings=raw["max_position_embeddings"],
            layer_norm_eps=raw.get("layer_norm_eps", 1e-12),
            position_offset=raw["pad_token_id"] + 1 if family in _PAST_PADDING else 0,
        )
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is not a readable model configuration: {error!r}") from error


def read_bert(folder: Path, pooling: Pooling) -> Bert:
    """Read the encoder of a model folder, and convert its weights to float32.

    Raises:
        WeightsError: a file is missing or damaged, or is not a BERT encoder.
    """
    config, path = read_config(folder), folder / WEIGHTS_FILE
    try:
        with safe_open(path, framework="numpy") as file:
            return _Reader(file).bert(config, pooling)
    except (OSError, SafetensorError, TypeError) as error:
        raise WeightsError(f"{path} is not a readable weights file: {error}") from error


class _Reader:
    """Reads tensors by their names in BERT checkpoints, with or without a leading "bert."."""

    def __init__(self, file: safe_open) -> None:
        self._file = file
        self._names = {_bare(name): name for name in _tensor_names(file)}

    def bert(self, config: BertConfig, pooling: Pooling) -> Bert:
        positions = self._tensor("embeddings.position_embeddings.weight")
        types = self._tensor("embeddings.token_type_embeddings.weight")
        return Bert(
            config=config,
            pooling=pooling,
            words=self._tensor("embeddings.word_embeddings.weight"),
            positions=positions[config.position_offset :] + types[0],
            embedding_norm=self._norm("embeddings.LayerNorm"),
            layers=tuple(self._layer(i) for i in range(config.num_hidden_layers)),
        )

    def _layer(self, index: int) -> Layer:
        at = f"encoder.layer.{index}"
        parts = [self._dense(f"{at}.attention.self.{part}") for part in ("query", "key", "value")]
        return Layer(
            attention_in=Dense(
                np.concatenate([part.weight for part in parts]),
                np.concatenate([part.bias for part in parts]),
            ),
            attention_out=self._dense(f"{at}.attention.output.dense"),
            attention_norm=self._norm(f"{at}.attention.output.LayerNorm"),
            feed_in=self._dense(f"{at}.intermediate.dense"),
            feed_out=self._dense(f"{at}.output.dense"),
            feed_norm=self._norm(f"{at}.output.LayerNorm"),
        )

    def _dense(self, name: str) -> Dense:
        return Dense(self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias"))

    def _norm(self, name: str) -> LayerNorm:
        return LayerNorm(self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias"))

    def _tensor(self, name: str) -> Matrix:
        if name not in self._names:
            raise WeightsError(f"The weights have no tensor {name!r}: this is not a BERT encoder.")
        stored = self._file.get_tensor(self._names[name])  # type: ignore[no-untyped-call]
        return np.ascontiguousarray(stored, dtype=np.float32)


def _tensor_names(file: safe_open) -> list[str]:
    return list(file.keys())  # type: ignore[no-untyped-call]


def _bare(name: str) -> str:
    """Remove the prefix of the model that wraps the encoder."""
    for wrapper in ("bert.", "roberta."):
        name = name.removeprefix(wrapper)
    return name
