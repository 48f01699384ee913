"""The BERT encoder in plain numpy, float32: the engine that works wherever Backline does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backline.embedders.local.bert import Bert, Dense, Layer, LayerNorm, Matrix
from backline.embedders.local.engine import IdMatrix
from backline.types import Vectors

_ERF_BLOCK = 8_192
"""Values per block of `_gelu`: 32 KB, so that its dozen passes stay in the L1 cache."""

# erf(x) = x P(x²)/Q(x²) on |x| ≤ 4, where float32 has erf(4) = 1; largest error 2e-7.
# The minimax coefficients of Eigen's float erf (Eigen/src/Core/MathFunctionsImpl.h, MPL-2.0),
# also used by XLA; tested against math.erf.
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
    """Implements `Engine`. The matrix products run on numpy's own BLAS threads."""

    name = "numpy"
    precision = "f32"
    batch_tokens = 1_024

    def __init__(self, bert: Bert, threads: int) -> None:
        self._bert = bert
        self.threads = threads
        self.streams = threads

    def forward(self, ids: IdMatrix, lengths: NDArray[np.int32]) -> Vectors:
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        bias = np.where(mask, np.float32(0), np.float32(-1e9))[:, None, None, :]
        state = self._embed(ids)
        for layer in self._bert.layers:
            state = self._layer(layer, state, bias)
        return _unit_length(self._pool(state, mask))

    def _embed(self, ids: IdMatrix) -> Matrix:
        bert = self._bert
        state = bert.words[ids]
        state += bert.positions[: ids.shape[1]]
        return self._normalise(state, bert.embedding_norm)

    def _layer(self, layer: Layer, state: Matrix, bias: Matrix) -> Matrix:
        attended = _dense(
            self._attend(_dense(state, layer.attention_in), bias), layer.attention_out
        )
        attended += state
        state = self._normalise(attended, layer.attention_norm)
        fed = _dense(_gelu(_dense(state, layer.feed_in)), layer.feed_out)
        fed += state
        return self._normalise(fed, layer.feed_norm)

    def _attend(self, projected: Matrix, bias: Matrix) -> Matrix:
        """Multi-head attention; `projected` is (texts, tokens, 3 hidden)."""
        config = self._bert.config
        texts, tokens, _ = projected.shape
        split = projected.reshape(texts, tokens, 3, config.num_attention_heads, config.head_size)
        query, key, value = split.transpose(2, 0, 3, 1, 4)
        scores = query @ key.swapaxes(-1, -2)
        scores *= np.float32(config.head_size**-0.5)
        scores += bias
        mixed: Matrix = _softmax(scores) @ value
        return mixed.transpose(0, 2, 1, 3).reshape(texts, tokens, config.hidden_size)

    def _normalise(self, state: Matrix, norm: LayerNorm) -> Matrix:
        """Layer normalisation over the last axis, in place."""
        state -= state.mean(axis=-1, keepdims=True)
        squares = np.einsum("...i,...i->...", state, state)[..., None]
        squares /= np.float32(state.shape[-1])
        squares += np.float32(self._bert.config.layer_norm_eps)
        state /= np.sqrt(squares)
        state *= norm.scale
        state += norm.shift
        return state

    def _pool(self, state: Matrix, mask: NDArray[np.bool_]) -> Matrix:
        if self._bert.pooling == "cls":
            return state[:, 0]
        weights = mask.astype(np.float32)
        weights /= weights.sum(axis=1, keepdims=True)
        mean: Matrix = np.einsum("bs,bsh->bh", weights, state)
        return mean


def _dense(state: Matrix, dense: Dense) -> Matrix:
    """One large product over all tokens: numpy would multiply text by text in three dimensions."""
    texts, tokens, inputs = state.shape
    out: Matrix = state.reshape(texts * tokens, inputs) @ dense.weight.T
    out += dense.bias
    return out.reshape(texts, tokens, -1)


def _softmax(scores: Matrix) -> Matrix:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _gelu(state: Matrix) -> Matrix:
    """Exact GELU, x/2 (1 + erf(x/√2)), in place (Hendrycks & Gimpel, arXiv 1606.08415)."""
    flat = state.reshape(-1)
    for start in range(0, flat.size, _ERF_BLOCK):
        block = flat[start : start + _ERF_BLOCK]
        gate = erf(block * np.float32(0.5**0.5))
        gate += 1
        gate *= 0.5
        block *= gate
    return state


def erf(x: Matrix) -> Matrix:
    """The error function of float32 values, to within 2e-7."""
    x = np.clip(x, -4, 4)
    square = x * x
    result = _polynomial(square, _ERF_P)
    result *= x
    result /= _polynomial(square, _ERF_Q)
    return result


def _polynomial(x: Matrix, coefficients: tuple[float, ...]) -> Matrix:
    """Horner's rule, highest power first."""
    result = x * np.float32(coefficients[0])
    for coefficient in coefficients[1:-1]:
        result += np.float32(coefficient)
        result *= x
    result += np.float32(coefficients[-1])
    return result


def _unit_length(rows: Matrix) -> Vectors:
    """Rows divided by their length, as torch.nn.functional.normalize does (no division by 0)."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.ascontiguousarray(rows / np.maximum(lengths, 1e-12)[:, None])
