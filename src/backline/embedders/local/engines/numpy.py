"""The BERT encoder in plain numpy, float32: runs on every platform that Backline supports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backline.embedders.local.bert import Bert, Dense, Layer, LayerNorm, Matrix
from backline.embedders.local.engines.blas import SingleThreadedBlas
from backline.embedders.local.engines.packing import PackedBatch, embed_tokens, pack, pool
from backline.embedders.local.tokenizers.base import TokenIds
from backline.types import Vectors

_ERF_BLOCK = 8_192
"""Values a block of `_gelu`: 32 KB, so that its dozen passes stay in the L1 cache."""

# erf(x) = x P(x²)/Q(x²) on |x| ≤ 4; in float32, erf(4) = 1. The largest error is 4e-7.
# The minimax coefficients are those of Eigen's float erf (Eigen/src/Core/MathFunctionsImpl.h,
# MPL-2.0), which XLA uses too.
_ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


class NumpyEngine:
    """Implements `Engine`: one stream a processor, each with single-threaded BLAS."""

    name = "numpy"
    precision = "f32"
    batch_tokens = 1_024

    def __init__(self, bert: Bert, threads: int) -> None:
        self._bert = bert
        self._blas = SingleThreadedBlas()
        self.threads = self.streams = threads

    def forward(self, texts: Sequence[TokenIds]) -> Vectors:
        with self._blas:
            return self._forward(pack(texts))

    def _forward(self, batch: PackedBatch) -> Vectors:
        state = self._layer_norm(embed_tokens(self._bert, batch), self._bert.embedding_norm)
        for layer in self._bert.layers:
            state = self._layer(layer, state, batch)
        return pool(state, batch, self._bert.pooling)

    def _layer(self, layer: Layer, state: Matrix, batch: PackedBatch) -> Matrix:
        attended = self._attend(_dense(state, layer.attention_in), batch)
        attended = _dense(attended, layer.attention_out)
        attended += state
        state = self._layer_norm(attended, layer.attention_norm)
        fed = _dense(_gelu(_dense(state, layer.feed_in)), layer.feed_out)
        fed += state
        return self._layer_norm(fed, layer.feed_norm)

    def _attend(self, projected: Matrix, batch: PackedBatch) -> Matrix:
        """Compute multi-head attention within each text; `projected` is (T, 3 hidden)."""
        config, (texts, width) = self._bert.config, batch.to_padded.shape
        heads = (texts, width, 3, config.num_attention_heads, config.head_size)
        query, key, value = projected[batch.to_padded].reshape(heads).transpose(2, 0, 3, 1, 4)
        scores = query @ key.swapaxes(-1, -2)
        scores *= np.float32(config.head_size**-0.5)
        scores += batch.bias
        mixed: Matrix = (_softmax(scores) @ value).transpose(0, 2, 1, 3)
        return mixed.reshape(texts * width, config.hidden_size)[batch.to_packed]

    def _layer_norm(self, state: Matrix, norm: LayerNorm) -> Matrix:
        """Apply layer normalization over the last axis, in place."""
        state -= state.mean(axis=-1, keepdims=True)
        squares = np.einsum("ij,ij->i", state, state)[:, None]
        squares /= np.float32(state.shape[-1])
        squares += np.float32(self._bert.config.layer_norm_eps)
        state /= np.sqrt(squares)
        state *= norm.scale
        state += norm.shift
        return state


def _dense(state: Matrix, dense: Dense) -> Matrix:
    out: Matrix = state @ dense.weight.T
    out += dense.bias
    return out


def _softmax(scores: Matrix) -> Matrix:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _gelu(state: Matrix) -> Matrix:
    """Apply exact GELU, x/2 (1 + erf(x/√2)), in place (Hendrycks & Gimpel, arXiv 1606.08415)."""
    flat = state.reshape(-1)
    for start in range(0, flat.size, _ERF_BLOCK):
        block = flat[start : start + _ERF_BLOCK]
        gate = erf(block * np.float32(0.5**0.5))
        gate += 1
        gate *= 0.5
        block *= gate
    return state


def erf(x: Matrix) -> Matrix:
    """Return the error function of float32 values, to within 4e-7."""
    x = np.clip(x, -4, 4)
    square = x * x
    result = _polynomial(square, _ERF_P)
    result *= x
    result /= _polynomial(square, _ERF_Q)
    return result


def _polynomial(x: Matrix, coefficients: tuple[float, ...]) -> Matrix:
    """Evaluate a polynomial by Horner's rule; coefficients start with the highest power."""
    result = x * np.float32(coefficients[0])
    for coefficient in coefficients[1:-1]:
        result += np.float32(coefficient)
        result *= x
    result += np.float32(coefficients[-1])
    return result
