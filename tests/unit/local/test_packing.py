from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backline.embedders.local.bert import read_bert
from backline.embedders.local.engines.packing import embed_tokens, pack, rounded_size


def ids(*lengths: int) -> list[np.ndarray]:
    return [np.arange(1, n + 1, dtype=np.int32) + 10 * i for i, n in enumerate(lengths)]


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("multiple", [1, 16])
def test_padding_and_packing_are_inverse(rounded: bool, multiple: int) -> None:
    texts = ids(5, 17, 1, 9)
    batch = pack(texts, width_multiple=multiple, rounded=rounded)
    rectangle = batch.ids[batch.to_padded]
    for row, text in enumerate(texts):
        assert rectangle[row, : len(text)].tolist() == text.tolist()
    tokens = sum(map(len, texts))
    assert (
        rectangle.reshape(-1)[batch.to_packed][:tokens].tolist() == np.concatenate(texts).tolist()
    )


def test_positions_restart_in_every_text(tiny_folder: Path) -> None:
    bert = read_bert(tiny_folder, "mean")
    batch = pack(ids(3, 2))
    places = [0, 1, 2, 0, 1]
    expected = bert.words[batch.ids] + bert.positions[places]
    np.testing.assert_array_equal(embed_tokens(bert, batch), expected)
    assert batch.starts.tolist() == [0, 3]


def test_only_padding_is_masked() -> None:
    batch = pack(ids(3, 1), width_multiple=4)
    assert (batch.bias[:, 0, 0] == 0).tolist() == [[True] * 3 + [False], [True] + [False] * 3]


def test_without_rounding_there_is_no_padding() -> None:
    assert len(pack(ids(7, 7, 7)).ids) == 21
    assert pack(ids(7, 7)).to_padded.shape == (2, 7)


def test_few_sizes_suffice_and_waste_at_most_a_quarter() -> None:
    sizes = [rounded_size(n) for n in range(1, 1_025)]
    assert all(n <= size for n, size in enumerate(sizes, 1))
    assert all(size <= max(n * 1.25, n + 15) for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 20
    assert rounded_size(1_024) == 1_024
