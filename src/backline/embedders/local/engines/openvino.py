"""The BERT encoder on OpenVINO: the fast engine, with a graph built directly from the weights.

On processors with AMX or AVX-512 BF16, OpenVINO's bfloat16 products run at several times the
float32 peak, and vectors keep a cosine of 0.9999 with those of float32. Shapes are rounded, because
OpenVINO compiles kernels for each new shape, about 5 ms each. Its attention is a quarter faster if
the width is a multiple of 16.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from backline.embedders.local.bert import Bert, Dense, Layer, LayerNorm, Matrix
from backline.embedders.local.catalog import Pooling
from backline.embedders.local.engines.openvino_import import op, ov
from backline.embedders.local.engines.packing import (
    PackedBatch,
    embed_tokens,
    pack,
    rounded_size,
    unit_length,
)
from backline.embedders.local.tokenizers.base import TokenIds
from backline.types import Vectors

Precision: TypeAlias = Literal["f32", "bf16"]
_Node: TypeAlias = Any
"""A node of the graph. OpenVINO's Python API is untyped."""

_WIDTH_MULTIPLE = 16
"""Rows of an AMX tile: a width of 32 takes 30 µs a token, 33 takes 38 µs."""


def native_precision() -> Precision:
    """Return "bf16" if the processor multiplies bfloat16 in hardware, else "f32"."""
    hint = ov.Core().get_property("CPU", "INFERENCE_PRECISION_HINT")
    return "bf16" if hint == ov.Type.bf16 else "f32"


class OpenVinoEngine:
    """Implements `Engine`: one stream of one thread a processor.

    Independent streams are faster than one stream over all threads: the layers of a small encoder
    are too short to divide efficiently.
    """

    name = "openvino"
    batch_tokens = 1_024

    def __init__(self, bert: Bert, threads: int, precision: Precision) -> None:
        self.precision = precision
        self.threads = self.streams = threads
        self._tables = bert.without_layers()
        self._compiled = ov.Core().compile_model(_graph(bert), "CPU", _options(threads, precision))
        self._local = threading.local()

    def forward(self, texts: Sequence[TokenIds]) -> Vectors:
        batch = pack(texts, width_multiple=_WIDTH_MULTIPLE, rounded=True)
        request = self._request()
        request.infer(self._inputs(batch), share_inputs=True)
        return unit_length(request.get_output_tensor(0).data[: len(texts)])

    def _inputs(self, batch: PackedBatch) -> list[Any]:
        pooled = _pooling_matrix(batch, self._tables.pooling)
        return [
            embed_tokens(self._tables, batch),
            batch.to_padded,
            batch.to_packed,
            batch.bias,
            pooled,
        ]

    def _request(self) -> Any:
        """Return this thread's inference request, which two threads may not share."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        return self._local.request


def _options(threads: int, precision: Precision) -> dict[str, str]:
    return {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": str(threads),
        # A pinned thread waits for its processor even if another one is idle.
        "ENABLE_CPU_PINNING": "NO",
    }


def _pooling_matrix(batch: PackedBatch, pooling: Pooling) -> Matrix:
    """Return the weight of each token in each text's vector, shape (texts, T).

    Weights are 0 or 1, which are exact in bfloat16. The sum replaces the mean, because the length
    is normalized afterwards.
    """
    texts = len(batch.lengths)
    matrix = np.zeros((rounded_size(texts), len(batch.ids)), dtype=np.float32)
    if pooling == "cls":
        matrix[np.arange(texts), batch.starts] = 1
    else:
        matrix[np.repeat(np.arange(texts), batch.lengths), np.arange(batch.lengths.sum())] = 1
    return matrix


def _graph(bert: Bert) -> ov.Model:
    """Build the graph from token embeddings (T, hidden) to one row a text.

    The other inputs are those of PackedBatch. Pooling is part of the graph, because the plugin
    computes everything after the last product in float32. Without pooling that is the whole
    residual stream, which is a tenth slower.
    """
    hidden = bert.config.hidden_size
    embedded = op.parameter(ov.PartialShape([-1, hidden]), ov.Type.f32, name="embedded")
    to_padded = op.parameter(ov.PartialShape([-1, -1]), ov.Type.i32, name="to_padded")
    to_packed = op.parameter(ov.PartialShape([-1]), ov.Type.i32, name="to_packed")
    bias = op.parameter(ov.PartialShape([-1, 1, 1, -1]), ov.Type.f32, name="bias")
    pooled = op.parameter(ov.PartialShape([-1, -1]), ov.Type.f32, name="pooled")
    builder = _Builder(bert, to_padded, to_packed, bias)
    state = builder.layer_norm(embedded, bert.embedding_norm)
    for layer in bert.layers:
        state = builder.layer(state, layer)
    rows = op.matmul(pooled, state, transpose_a=False, transpose_b=False)
    return ov.Model([rows], [embedded, to_padded, to_packed, bias, pooled], "encoder")


class _Builder:
    """Adds the encoder's parts to a graph, in patterns that the plugin fuses."""

    def __init__(self, bert: Bert, to_padded: _Node, to_packed: _Node, bias: _Node) -> None:
        self._config = bert.config
        self._to_padded, self._to_packed, self._bias = to_padded, to_packed, bias

    def layer(self, state: _Node, layer: Layer) -> _Node:
        attended = self._dense(self._attend(state, layer.attention_in), layer.attention_out)
        state = self.layer_norm(op.add(attended, state), layer.attention_norm)
        inner = op.gelu(self._dense(state, layer.feed_in), "erf")
        fed = self._dense(inner, layer.feed_out)
        return self.layer_norm(op.add(fed, state), layer.feed_norm)

    def _attend(self, state: _Node, projection: Dense) -> _Node:
        """Add attention with three separate products, which the plugin fuses into one kernel."""
        query, key, value = (
            self._heads(self._dense(state, part)) for part in _parts(projection, self._config)
        )
        scores = op.add(op.matmul(query, key, transpose_a=False, transpose_b=True), self._bias)
        mixed = op.matmul(op.softmax(scores, -1), value, transpose_a=False, transpose_b=False)
        joined = op.transpose(mixed, _ints(0, 2, 1, 3))
        merged = op.reshape(joined, _ints(-1, self._config.hidden_size), special_zero=False)
        return op.gather(merged, self._to_packed, np.int32(0))

    def _heads(self, projected: _Node) -> _Node:
        """Reshape (T, hidden) to (texts, heads, S, head size)."""
        rectangle = op.gather(projected, self._to_padded, np.int32(0))
        shape = _ints(0, 0, self._config.num_attention_heads, self._config.head_size)
        return op.transpose(op.reshape(rectangle, shape, special_zero=True), _ints(0, 2, 1, 3))

    def layer_norm(self, state: _Node, norm: LayerNorm) -> _Node:
        scaled = op.mvn(
            state,
            _ints(-1),
            normalize_variance=True,
            eps=self._config.layer_norm_eps,
            eps_mode="inside_sqrt",
        )
        return op.add(op.multiply(scaled, _constant(norm.scale)), _constant(norm.shift))

    def _dense(self, state: _Node, dense: Dense) -> _Node:
        weight = op.constant(dense.weight, shared_memory=True)
        product = op.matmul(state, weight, transpose_a=False, transpose_b=True)
        return op.add(product, _constant(dense.bias))


def _parts(projection: Dense, config: Any) -> list[Dense]:
    """Split into query, key and value projections; scale the query's by 1/√(head size)."""
    weights = np.split(projection.weight, 3)
    biases = np.split(projection.bias, 3)
    scale = np.float32(config.head_size**-0.5)
    weights[0], biases[0] = weights[0] * scale, biases[0] * scale
    return [Dense(weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def _constant(vector: Matrix) -> _Node:
    return op.constant(vector[None])


def _ints(*values: int) -> _Node:
    return op.constant(np.array(values, dtype=np.int32))
