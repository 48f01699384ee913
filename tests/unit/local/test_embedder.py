"""The contract of the local embedder, with the real model where the model matters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from backline.embedders.local import LocalEmbedder, embedder, open_local
from backline.embedders.local.catalog import ModelInfo
from backline.embedders.local.load import open_tokenizer
from backline.embedders.local.tokenizers.base import TokenIds
from backline.embedders.local.tokenizers.wordpiece import WordPieceTokenizer
from backline.errors import ProviderUnavailableError
from backline.types import Purpose, Vectors

TEXTS = [f"Cut {i} dB around {200 + i} Hz to clear up muddy vocals." for i in range(40)]
ODD = ["", "   ", "\ud800 lone", "nul\x00", "🎤" * 50, "[SEP]", "<|endoftext|>", "x" * 100_000]


async def test_vectors_are_float32_of_unit_length_in_order(minilm: LocalEmbedder) -> None:
    texts = ["kick drum", "mud " * 400, "a reverb tail", "a kick drum"]
    vectors = await minilm.embed(texts)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    nearest = (vectors[0] @ vectors[1:].T).argmax() + 1
    assert texts[nearest] == "a kick drum"


async def test_no_texts_give_an_empty_matrix(minilm: LocalEmbedder) -> None:
    purposes: tuple[Purpose, ...] = ("passage", "query")
    for purpose in purposes:
        vectors = await minilm.embed([], purpose=purpose)
        assert vectors.shape == (0, 384)
        assert vectors.dtype == np.float32


async def test_odd_texts_are_embedded_and_do_not_affect_others(minilm: LocalEmbedder) -> None:
    vectors = await minilm.embed([*ODD, TEXTS[0]])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    (alone,) = await minilm.embed([TEXTS[0]])
    assert alone @ vectors[-1] > 0.9999


@pytest.mark.parametrize("engine", ["numpy", "openvino-f32"])
async def test_vector_does_not_depend_on_the_other_texts(minilm_folder: Path, engine: str) -> None:
    if engine.startswith("openvino"):
        pytest.importorskip("openvino")
    local = await open_local(engine=engine)
    texts = [*TEXTS[:12], "mud " * 300, "hi"]
    together = await local.embed(texts)
    backwards = await local.embed(texts[::-1])
    alone = np.concatenate([await local.embed([text]) for text in texts])
    await local.aclose()
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, backwards[::-1], atol=1e-5)


async def test_query_and_passage_of_a_model_without_prefixes_agree(minilm: LocalEmbedder) -> None:
    passages, queries = (
        await minilm.embed(TEXTS[:5]),
        await minilm.embed(TEXTS[:5], purpose="query"),
    )
    assert (passages * queries).sum(axis=1).min() > 0.9999


async def test_count_and_truncate_agree_with_embed(minilm: LocalEmbedder) -> None:
    long = "mud " * 400
    assert minilm.count_tokens(["kick drum", long]) == [4, 402]
    kept = minilm.truncate(long)
    assert minilm.count_tokens([kept]) == [256]
    whole, cut = await minilm.embed([long, kept])
    assert whole @ cut > 0.9999


# --- scheduling, with an engine that the test blocks and releases ---------------------------------


class HeldEngine:
    """Blocks until it is released, computes nothing, and records its sub-batches in order."""

    name, precision, threads, streams, batch_tokens = "held", "f32", 1, 1, 1

    def __init__(self) -> None:
        self.released = threading.Event()
        self.entered = threading.Event()
        self.seen: list[int] = []
        self.failing = False
        self.texts = 0

    def forward(self, texts: Sequence[TokenIds]) -> Vectors:
        self.entered.set()
        assert self.released.wait(10)
        self.seen.append(len(texts[0]))
        self.texts += len(texts)
        if self.failing:
            self.released.clear()
            raise RuntimeError("out of tiles")
        return np.full((len(texts), 4), 0.5, dtype=np.float32)


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
async def held(engine: HeldEngine, tiny_folder: Path) -> AsyncIterator[LocalEmbedder]:
    info = ModelInfo("held", "", "0" * 40, dimensions=4, max_tokens=40)
    tokenizer = open_tokenizer(tiny_folder / "tokenizer.json", 40)
    local = LocalEmbedder(info, engine, tokenizer)
    yield local
    engine.released.set()
    await local.aclose()


async def started(
    local: LocalEmbedder, engine: HeldEngine, texts: list[str]
) -> asyncio.Task[Vectors]:
    """Start a call and return it once its first sub-batch has reached the engine."""
    task = asyncio.create_task(local.embed(texts))
    assert await asyncio.to_thread(engine.entered.wait, 10)
    return task


async def test_event_loop_runs_while_the_engine_computes(
    held: LocalEmbedder, engine: HeldEngine
) -> None:
    task = await started(held, engine, ["drums"])
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    engine.released.set()
    assert (await task).shape == (1, 4)


async def test_query_overtakes_waiting_passages(held: LocalEmbedder, engine: HeldEngine) -> None:
    passages = await started(held, engine, ["drums drums drums"] * 5)
    query = asyncio.create_task(held.embed(["drums"], purpose="query"))
    await asyncio.sleep(0.05)
    engine.released.set()
    await asyncio.gather(query, passages)
    assert engine.seen == [5, 3, 5, 5, 5, 5]


async def test_cancelled_call_drops_its_queued_texts(
    held: LocalEmbedder, engine: HeldEngine
) -> None:
    task = await started(held, engine, ["drums"] * 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    engine.released.set()
    await held.embed(["drums"])
    assert len(engine.seen) == 2


async def test_engine_failure_is_a_provider_error_and_the_next_call_works(
    held: LocalEmbedder, engine: HeldEngine
) -> None:
    engine.failing = True
    engine.released.set()
    with pytest.raises(ProviderUnavailableError, match=r"held engine failed .* out of tiles"):
        await held.embed(["drums"] * 9)
    engine.failing = False
    engine.released.set()
    assert (await held.embed(["drums"])).shape == (1, 4)
    assert len(engine.seen) <= 3, "queued texts of a failed call were computed"


async def test_repeated_query_is_computed_once(held: LocalEmbedder, engine: HeldEngine) -> None:
    engine.released.set()
    first = await held.embed(["drums", "drums", "pan wide"], purpose="query")
    assert engine.texts == 2
    again = await held.embed(["pan wide", "drums"], purpose="query")
    assert (first.shape, again.shape) == ((3, 4), (2, 4))
    assert engine.texts == 2


async def test_many_queries_are_divided_into_sub_batches(
    held: LocalEmbedder, engine: HeldEngine
) -> None:
    engine.released.set()
    vectors = await held.embed([f"drums {'wide ' * i}" for i in range(9)], purpose="query")
    assert vectors.shape == (9, 4)
    assert sorted(engine.seen) == [3, 4, 5, 6, 7, 8, 9, 10, 11]


async def test_passage_vectors_are_not_cached(held: LocalEmbedder, engine: HeldEngine) -> None:
    engine.released.set()
    await held.embed(["drums"])
    await held.embed(["drums"])
    assert len(engine.seen) == 2


async def test_changing_a_returned_vector_leaves_the_cache_intact(
    held: LocalEmbedder, engine: HeldEngine
) -> None:
    engine.released.set()
    (await held.embed(["drums"], purpose="query"))[:] = 9
    assert (await held.embed(["drums"], purpose="query")).max() == 0.5


async def test_least_recent_query_is_evicted_first(
    held: LocalEmbedder, engine: HeldEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "QUERY_CACHE_SIZE", 2)
    engine.released.set()
    for text in ("a", "b", "a", "c", "a"):
        await held.embed([text], purpose="query")
    assert len(engine.seen) == 3
    await held.embed(["b"], purpose="query")
    assert len(engine.seen) == 4


async def test_closed_embedder_raises_and_closes_twice(held: LocalEmbedder) -> None:
    await held.aclose()
    await held.aclose()
    with pytest.raises(ProviderUnavailableError, match="closed"):
        await held.embed(["drums"])


async def test_counted_text_is_not_tokenized_again(
    minilm: LocalEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS, "mud " * 400, TEXTS[0], *ODD]
    expected = await minilm.embed(texts)
    minilm.count_tokens(texts[:-1])
    tokenized: list[str] = []
    encode = WordPieceTokenizer.encode

    def record(self: WordPieceTokenizer, part: Sequence[str], prefix: str = "") -> list[TokenIds]:
        tokenized.extend(part)
        return encode(self, part, prefix)

    monkeypatch.setattr(WordPieceTokenizer, "encode", record)
    vectors = await minilm.embed(texts)
    assert tokenized == texts[-1:]
    np.testing.assert_allclose(vectors, expected, atol=1e-3)
    minilm.count_tokens([f"{i}" for i in range(3 * embedder.TOKEN_CACHE_SIZE)])
    assert len(minilm._token_cache) <= embedder.TOKEN_CACHE_SIZE


async def test_counted_and_truncated_text_is_not_tokenized_again(
    minilm: LocalEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long texts were tokenized three times: to count, to truncate, and to embed."""
    long = "unbelievably muddy vocals " * 200
    kept = minilm.truncate(long)
    expected = await minilm.embed([kept])
    minilm.count_tokens([long])
    assert minilm.truncate(long) == kept
    monkeypatch.setattr(WordPieceTokenizer, "encode", None)
    np.testing.assert_allclose(await minilm.embed([kept]), expected, atol=1e-3)


async def test_concurrent_calls_share_sub_batches(held: LocalEmbedder, engine: HeldEngine) -> None:
    engine.batch_tokens = 64
    local = LocalEmbedder(held._info, engine, held._tokenizer)
    first = await started(local, engine, ["drums"])
    texts = ["wide " * i for i in range(1, 6)]
    local.count_tokens(texts)  # else they are tokenized and queued after the thread is free
    later = [asyncio.create_task(local.embed([text])) for text in texts]
    await asyncio.sleep(0.05)
    engine.released.set()
    await asyncio.gather(first, *later)
    await local.aclose()
    assert len(engine.seen) == 2
