"""Dynamic batching: the batches, cancelled calls, rejected texts and overload."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from backline import errors
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.server import dynamic_batching
from backline.server.dynamic_batching import DynamicBatcher
from backline.server.embedder_pool import PooledEmbedder
from backline.server.metrics import Metrics
from backline.types import Model, Purpose, Vectors


class GatedEmbedder:
    """The hash embedder behind a gate. It records its calls and may reject a text."""

    def __init__(self, poison: str | None = None) -> None:
        self._inner = HashEmbedder(8)
        self._poison = poison
        self.gate = asyncio.Event()
        self.calls: list[list[str]] = []
        self.shares_batches = False

    @property
    def model(self) -> Model:
        return self._inner.model

    @property
    def free(self) -> bool:
        return True

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        self.calls.append(list(texts))
        await self.gate.wait()
        if self._poison in texts:
            raise errors.InputRejectedError(f"{self._poison} is rejected")
        return await self._inner.embed(texts, purpose=purpose)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._inner.count_tokens(texts)

    def truncate(self, text: str) -> str:
        return text

    async def aclose(self) -> None: ...


def concurrent_calls(embedder: Embedder, *texts: Sequence[str]) -> list[asyncio.Task[Vectors]]:
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    return [asyncio.create_task(batcher.embed(each)) for each in texts]


async def test_first_call_starts_at_once_and_the_others_form_a_batch() -> None:
    embedder = GatedEmbedder()
    tasks = concurrent_calls(embedder, ["a"], ["b", "c"], ["d"])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert embedder.calls == [["a"]] or embedder.calls == [["a", "b", "c", "d"]]
    embedder.gate.set()
    results = await asyncio.gather(*tasks)
    assert np.array_equal(np.concatenate(results), hash_vectors(["a", "b", "c", "d"], 8))
    assert len(embedder.calls) <= 2


async def test_calls_during_a_computation_form_one_batch() -> None:
    embedder = GatedEmbedder()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    first = asyncio.create_task(batcher.embed(["a"]))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(batcher.embed([text])) for text in "bcdef"]
    await asyncio.sleep(0.01)
    embedder.gate.set()
    await asyncio.gather(first, *rest)
    assert embedder.calls == [["a"], ["b", "c", "d", "e", "f"]]


async def test_batch_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_batching, "MAX_TEXTS", 4)
    embedder = GatedEmbedder()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    tasks = [asyncio.create_task(batcher.embed(["x"]))]
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(batcher.embed([str(n)] * 3)) for n in range(3)]
    tasks += [asyncio.create_task(batcher.embed(["long"] * 9))]
    embedder.gate.set()
    results = await asyncio.gather(*tasks)
    assert [len(call) for call in embedder.calls] == [1, 3, 3, 3, 9]
    assert [len(each) for each in results] == [1, 3, 3, 3, 9]


async def test_cancelled_call_is_not_computed() -> None:
    embedder = GatedEmbedder()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    first = asyncio.create_task(batcher.embed(["a"]))
    await asyncio.sleep(0.01)
    cancelled, kept = [asyncio.create_task(batcher.embed([text])) for text in ("cancelled", "kept")]
    await asyncio.sleep(0.01)
    cancelled.cancel()
    embedder.gate.set()
    await asyncio.gather(first, kept)
    assert embedder.calls == [["a"], ["kept"]]


async def test_rejected_text_fails_only_its_own_call() -> None:
    embedder = GatedEmbedder(poison="poison")
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    first = asyncio.create_task(batcher.embed(["a"]))
    await asyncio.sleep(0.01)
    tasks = [asyncio.create_task(batcher.embed([text])) for text in ("b", "poison", "c")]
    embedder.gate.set()
    await first
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], errors.InputRejectedError)
    assert np.array_equal(await tasks[0], hash_vectors(["b"], 8))
    assert np.array_equal(await tasks[2], hash_vectors(["c"], 8))


async def test_overload_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_batching, "MAX_WAITING", 5)
    embedder = GatedEmbedder()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    first = asyncio.create_task(batcher.embed(["a"]))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(batcher.embed(["b"] * 5))
    await asyncio.sleep(0.01)
    with pytest.raises(errors.OverloadedError, match="5 texts are waiting"):
        await batcher.embed(["c"])
    embedder.gate.set()
    await asyncio.gather(first, waiting)
    assert len(await batcher.embed(["c"])) == 1


async def test_calls_to_a_sharing_model_are_passed_through() -> None:
    embedder = GatedEmbedder()
    embedder.gate.set()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1, pass_through=True)
    results = await asyncio.gather(*(batcher.embed([text]) for text in "abc"))
    assert embedder.calls == [["a"], ["b"], ["c"]]
    assert np.array_equal(np.concatenate(results), hash_vectors(["a", "b", "c"], 8))


async def test_overload_of_a_sharing_model_ends_with_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dynamic_batching, "MAX_WAITING", 5)
    embedder = GatedEmbedder()
    batcher = DynamicBatcher(embedder, "passage", pass_through=True)
    waiting = asyncio.create_task(batcher.embed(["a"] * 5))
    await asyncio.sleep(0)
    with pytest.raises(errors.OverloadedError, match="5 texts are waiting"):
        await batcher.embed(["b"])
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    embedder.gate.set()
    assert len(await batcher.embed(["b"])) == 1


@pytest.mark.parametrize("shares", [True, False])
async def test_only_models_that_do_not_share_are_batched(shares: bool) -> None:
    embedder = GatedEmbedder()
    embedder.shares_batches = shares
    shared = PooledEmbedder(embedder, Metrics())
    calls = [asyncio.create_task(shared.embed_call([text])) for text in "abcdefghij"]
    await asyncio.sleep(0.01)
    embedder.gate.set()
    await asyncio.gather(*calls)
    assert (len(embedder.calls) == 10) is shares
