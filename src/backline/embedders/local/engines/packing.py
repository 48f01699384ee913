"""Pack texts of different lengths into one matrix of tokens, without padding.

Dense layers are nine tenths of the arithmetic and process each token independently, so they run on
the concatenated tokens. Only attention needs a padded rectangle with one row a text: `to_padded`
gathers tokens into it, and `to_packed` gathers them out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backline.embedders.local.bert import Bert, Matrix
from backline.embedders.local.catalog import Pooling
from backline.embedders.local.tokenizers.base import TokenIds
from backline.types import Vectors

Indices = NDArray[np.int32]

_MASKED = np.float32(-1e9)
"""Added to the score of a padding key; its exp is 0 in float32 and in bfloat16."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One sub-batch: T concatenated tokens, including zeros at the end if T was rounded up.

    Attributes:
        ids: token ids, shape (T,).
        to_padded: shape (texts, S): index among the T tokens for each cell of the rectangle.
        to_packed: shape (T,): index in the flattened rectangle for each token.
        bias: float32, shape (texts, 1, 1, S): 0 for tokens, about -infinity for padding.
        starts: index of each text's first token, shape (texts,).
        lengths: tokens of each text, shape (texts,).
    """

    ids: Indices
    to_padded: Indices
    to_packed: Indices
    bias: Matrix
    starts: Indices
    lengths: Indices


def pack(
    texts: Sequence[TokenIds], *, width_multiple: int = 1, rounded: bool = False
) -> PackedBatch:
    """Concatenate texts and compute the indices of their padded rectangle.

    Args:
        texts: the token ids of each text; no text may be empty.
        width_multiple: the rectangle's width S is rounded up to a multiple of this.
        rounded: round T up to one of few sizes, for engines that compile a kernel for each size.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int32)
    starts = np.zeros_like(lengths)
    np.cumsum(lengths[:-1], out=starts[1:])
    tokens = int(lengths.sum())
    columns = np.arange(-(-int(lengths.max()) // width_multiple) * width_multiple, dtype=np.int32)
    mask = columns < lengths[:, None]
    rows = rounded_size(tokens) if rounded else tokens
    return PackedBatch(
        ids=_zero_padded(np.concatenate(texts), rows),
        to_padded=np.where(mask, starts[:, None] + columns, 0).astype(np.int32),
        to_packed=_zero_padded(np.flatnonzero(mask), rows),
        bias=np.where(mask, np.float32(0), _MASKED)[:, None, None, :],
        starts=starts,
        lengths=lengths,
    )


def rounded_size(tokens: int) -> int:
    """Round up to one of few sizes: multiples of 16, then four sizes a doubling from 64 on."""
    step = max(16, 1 << max(0, (tokens - 1).bit_length() - 3))
    return -(-tokens // step) * step


def _zero_padded(values: NDArray[np.integer], size: int) -> Indices:
    """Append zeros up to `size`. Nothing reads the results that are computed for them."""
    padded = np.zeros(size, dtype=np.int32)
    padded[: len(values)] = values
    return padded


def embed_tokens(bert: Bert, batch: PackedBatch) -> Matrix:
    """Return word plus position embeddings, shape (T, hidden), before layer normalization.

    Positions are added text by text. Gathering them for all tokens allocates a second matrix of
    over a megabyte, and its page faults take four times as long as the additions.
    """
    state = bert.words[batch.ids]
    for start, length in zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True):
        state[start : start + length] += bert.positions[:length]
    return state


def pool(states: Matrix, batch: PackedBatch, pooling: Pooling) -> Vectors:
    """Pool token states (T, hidden) into one vector of unit length a text."""
    if pooling == "cls":
        rows = states[batch.starts]
    else:
        used = states[: batch.starts[-1] + batch.lengths[-1]]
        rows = np.add.reduceat(used, batch.starts, axis=0)
        rows /= batch.lengths[:, None].astype(np.float32)
    return unit_length(rows)


def unit_length(rows: Matrix) -> Vectors:
    """Divide rows by their length, as torch.nn.functional.normalize does (never by 0)."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.ascontiguousarray(rows / np.maximum(lengths, np.float32(1e-12))[:, None])
