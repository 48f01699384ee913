"""Texts of different lengths as one matrix of tokens, with no padding where most of the work is.

The dense layers, nine tenths of the arithmetic, treat every token alone: they run on the tokens of
all texts laid end to end. Only attention needs a rectangle, one row a text; `spread` gathers tokens
into it and `back` gathers them out again.
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
"""Added to the score of a padding key: exp of it is 0 in float32 and in bfloat16."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One sub-batch. T tokens laid end to end, filled up to whatever length the engine wants.

    Attributes:
        ids: token ids, shape (T,).
        spread: shape (texts, S): which of the T tokens stands in each place of the rectangle.
        back: shape (T,): the place of each token in the flattened rectangle.
        bias: float32, shape (texts, 1, 1, S): 0 for tokens, about -infinity for padding.
        starts: of each text among the T tokens, shape (texts,).
        lengths: tokens of each text, shape (texts,).
    """

    ids: Indices
    spread: Indices
    back: Indices
    bias: Matrix
    starts: Indices
    lengths: Indices


def pack(
    texts: Sequence[TokenIds], *, width_multiple: int = 1, rounded: bool = False
) -> PackedBatch:
    """Lay texts end to end.

    Args:
        texts: the token ids of each, none of them empty.
        width_multiple: the rectangle's width S is rounded up to a multiple of this.
        rounded: round T up to one of few sizes, for engines that compile for each.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int32)
    starts = np.zeros_like(lengths)
    np.cumsum(lengths[:-1], out=starts[1:])
    tokens = int(lengths.sum())
    columns = np.arange(-(-int(lengths.max()) // width_multiple) * width_multiple, dtype=np.int32)
    mask = columns < lengths[:, None]
    rows = rounded_size(tokens) if rounded else tokens
    return PackedBatch(
        ids=_filled(np.concatenate(texts), rows),
        spread=np.where(mask, starts[:, None] + columns, 0).astype(np.int32),
        back=_filled(np.flatnonzero(mask), rows),
        bias=np.where(mask, np.float32(0), _MASKED)[:, None, None, :],
        starts=starts,
        lengths=lengths,
    )


def rounded_size(tokens: int) -> int:
    """The next of few sizes: multiples of 16, then four sizes for every doubling from 64 on."""
    step = max(16, 1 << max(0, (tokens - 1).bit_length() - 3))
    return -(-tokens // step) * step


def _filled(values: NDArray[np.integer], size: int) -> Indices:
    """`values` and then zeros; what is computed for the zeros is never read."""
    filled = np.zeros(size, dtype=np.int32)
    filled[: len(values)] = values
    return filled


def embed_tokens(bert: Bert, batch: PackedBatch) -> Matrix:
    """Word plus position embeddings, shape (T, hidden), before their layer normalisation.

    Positions are added text by text: gathered for all tokens they would be a second matrix of a
    megabyte and more, whose fresh pages cost four times what the sums do.
    """
    state = bert.words[batch.ids]
    for start, length in zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True):
        state[start : start + length] += bert.positions[:length]
    return state


def pool(states: Matrix, batch: PackedBatch, pooling: Pooling) -> Vectors:
    """One vector of unit length a text, from its tokens' states (T, hidden)."""
    if pooling == "cls":
        rows = states[batch.starts]
    else:
        used = states[: batch.starts[-1] + batch.lengths[-1]]
        rows = np.add.reduceat(used, batch.starts, axis=0)
        rows /= batch.lengths[:, None].astype(np.float32)
    return unit_length(rows)


def unit_length(rows: Matrix) -> Vectors:
    """Rows divided by their length, as torch.nn.functional.normalize does (no division by 0)."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.ascontiguousarray(rows / np.maximum(lengths, np.float32(1e-12))[:, None])
