"""Small random BERT-family models, written as the folders that real ones come in."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = "my vocals sound muddy cut the low mids around hertz compress drums gently and pan wide"
HIDDEN, HEADS, LAYERS, INNER, POSITIONS = 32, 4, 2, 64, 40
Floats = NDArray[np.float64]


def write_tiny_model(
    folder: Path,
    *,
    family: str = "bert",
    wrapper: str = "",
    dtype: str = "float32",
    seed: int = 7,
    pooling: str | None = None,
) -> Path:
    """Write config.json, tokenizer.json, model.safetensors and optionally a pooling file."""
    folder.mkdir(parents=True)
    tokenizer = _unigram() if family == "xlm-roberta" else _wordpiece()
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    (folder / "config.json").write_text(json.dumps(_config(family, size)))
    tensors = {wrapper + name: value for name, value in _tensors(size, seed, dtype).items()}
    save_file(tensors, folder / "model.safetensors")
    if pooling:
        (folder / "1_Pooling").mkdir()
        modes = {"pooling_mode_cls_token": pooling == "cls"}
        modes["pooling_mode_mean_tokens"] = pooling == "mean"
        modes["pooling_mode_max_tokens"] = pooling == "max"
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder


def naive_vector(folder: Path, ids: list[int], pooling: str = "mean") -> Floats:
    """Compute the encoder plainly in float64, one text at a time, as the reference of engines."""
    w = {k.removeprefix("bert."): v.astype(np.float64) for k, v in _load(folder).items()}
    config = json.loads((folder / "config.json").read_text())
    start = config["pad_token_id"] + 1 if config["model_type"] == "xlm-roberta" else 0
    e = "embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.token_type_embeddings.weight"][0]
    x = x + w[f"{e}.position_embeddings.weight"][start : start + len(ids)]
    x = _norm(x, w, f"{e}.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        x = _naive_layer(x, w, f"encoder.layer.{i}", config["num_attention_heads"])
    pooled = x[0] if pooling == "cls" else x.mean(axis=0)
    vector: Floats = pooled / np.sqrt((pooled**2).sum())
    return vector


def _naive_layer(x: Floats, w: dict[str, Floats], at: str, heads: int) -> Floats:
    q, k, v = (_linear(x, w, f"{at}.attention.self.{p}") for p in ("query", "key", "value"))
    size, mixed = x.shape[1] // heads, np.zeros_like(x)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
        mixed[:, part] = scores / scores.sum(axis=1, keepdims=True) @ v[:, part]
    attended = _linear(mixed, w, f"{at}.attention.output.dense") + x
    x = _norm(attended, w, f"{at}.attention.output.LayerNorm")
    inner = _linear(x, w, f"{at}.intermediate.dense")
    inner *= 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    return _norm(_linear(inner, w, f"{at}.output.dense") + x, w, f"{at}.output.LayerNorm")


def _linear(x: Floats, w: dict[str, Floats], name: str) -> Floats:
    out: Floats = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    return out


def _norm(x: Floats, w: dict[str, Floats], name: str) -> Floats:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12)
    out: Floats = scaled * w[f"{name}.weight"] + w[f"{name}.bias"]
    return out


def _load(folder: Path) -> dict[str, NDArray[Any]]:
    return load_file(folder / "model.safetensors")


def _config(family: str, vocabulary: int) -> dict[str, object]:
    return {
        "model_type": family,
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 1 if family == "xlm-roberta" else 0,
    }


def _tensors(vocabulary: int, seed: int, dtype: str) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    shapes = {
        "embeddings.word_embeddings.weight": (vocabulary, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.LayerNorm": (HIDDEN,),
    }
    for i in range(LAYERS):
        at = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            shapes[f"{at}.attention.self.{part}"] = (HIDDEN, HIDDEN)
        shapes[f"{at}.attention.output.dense"] = (HIDDEN, HIDDEN)
        shapes[f"{at}.attention.output.LayerNorm"] = (HIDDEN,)
        shapes[f"{at}.intermediate.dense"] = (INNER, HIDDEN)
        shapes[f"{at}.output.dense"] = (HIDDEN, INNER)
        shapes[f"{at}.output.LayerNorm"] = (HIDDEN,)
    tensors: dict[str, NDArray[Any]] = {}
    for name, shape in shapes.items():
        if name.endswith("embeddings.weight"):
            tensors[name] = random.normal(0, 0.5, shape).astype(dtype)
            continue
        centre = 1.0 if name.endswith("LayerNorm") else 0.0
        tensors[f"{name}.weight"] = random.normal(centre, 0.2, shape).astype(dtype)
        tensors[f"{name}.bias"] = random.normal(0, 0.2, shape[:1]).astype(dtype)
    return tensors


def _wordpiece() -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(WORDS.split())]
    pieces += [*"abcdefghijklmnopqrstuvwxyz.,!?", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    ids = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    specials = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=specials
    )
    return tokenizer


def _unigram() -> Tokenizer:
    """A tokenizer like XLM-R's: sentence pieces, <s> text </s>, padding id 1."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0)]
    pieces += [(f"▁{word}", -3.0) for word in dict.fromkeys(WORDS.split())]
    pieces += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer
