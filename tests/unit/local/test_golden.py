"""Compare vectors with those of the reference implementation (tests/golden/make_golden.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from backline.embedders.local import LocalEmbedder, open_local
from backline.types import Vectors

GOLDEN = Path(__file__).parents[2] / "golden"


def golden() -> tuple[list[str], Vectors]:
    lines = (GOLDEN / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    with np.load(GOLDEN / "minilm_l6_v2.npz") as stored:
        return [json.loads(line)["text"] for line in lines], stored["vectors"]


async def test_numpy_engine_matches_the_reference(minilm_folder: Path) -> None:
    texts, expected = golden()
    embedder = await open_local("all-MiniLM-L6-v2", engine="numpy")
    try:
        vectors = await embedder.embed(texts)
    finally:
        await embedder.aclose()
    assert len(texts) == 200
    np.testing.assert_allclose(vectors, expected, atol=2e-6)
    assert (vectors * expected).sum(axis=1).min() >= 0.99999


async def test_default_engine_is_within_a_thousandth_of_the_reference(
    minilm: LocalEmbedder,
) -> None:
    texts, expected = golden()
    cosines = (await minilm.embed(texts) * expected).sum(axis=1)
    worst = int(cosines.argmin())
    assert cosines[worst] >= 0.999, f"{texts[worst][:60]!r} has cosine {cosines[worst]:.5f}"
