"""Micro-batching: who goes with whom, who is dropped, who is refused."""

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


class Gated:
    """The hash embedder behind a gate; remembers what came to it, and may reject a text."""

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


def gathered(embedder: Embedder, *texts: Sequence[str]) -> list[asyncio.Task[Vectors]]:
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    return [asyncio.create_task(batcher.embed(each)) for each in texts]


async def test_the_first_goes_at_once_and_the_others_together() -> None:
    embedder = Gated()
    tasks = gathered(embedder, ["a"], ["b", "c"], ["d"])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert embedder.calls == [["a"]] or embedder.calls == [["a", "b", "c", "d"]]
    embedder.gate.set()
    found = await asyncio.gather(*tasks)
    assert np.array_equal(np.concatenate(found), hash_vectors(["a", "b", "c", "d"], 8))
    assert len(embedder.calls) <= 2


async def test_what_comes_while_the_model_works_goes_together() -> None:
    embedder = Gated()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    first = asyncio.create_task(batcher.embed(["a"]))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(batcher.embed([text])) for text in "bcdef"]
    await asyncio.sleep(0.01)
    embedder.gate.set()
    await asyncio.gather(first, *rest)
    assert embedder.calls == [["a"], ["b", "c", "d", "e", "f"]]


async def test_a_batch_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_batching, "MAX_TEXTS", 4)
    embedder = Gated()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    tasks = [asyncio.create_task(batcher.embed(["x"]))]
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(batcher.embed([str(n)] * 3)) for n in range(3)]
    tasks += [asyncio.create_task(batcher.embed(["long"] * 9))]
    embedder.gate.set()
    found = await asyncio.gather(*tasks)
    assert [len(call) for call in embedder.calls] == [1, 3, 3, 3, 9]
    assert [len(each) for each in found] == [1, 3, 3, 3, 9]


async def test_work_of_a_caller_who_has_gone_is_dropped() -> None:
    embedder = Gated()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    first = asyncio.create_task(batcher.embed(["a"]))
    await asyncio.sleep(0.01)
    gone, stays = [asyncio.create_task(batcher.embed([text])) for text in ("gone", "stays")]
    await asyncio.sleep(0.01)
    gone.cancel()
    embedder.gate.set()
    await asyncio.gather(first, stays)
    assert embedder.calls == [["a"], ["stays"]]


async def test_a_rejected_text_is_its_own_callers_matter() -> None:
    embedder = Gated(poison="poison")
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    first = asyncio.create_task(batcher.embed(["a"]))
    await asyncio.sleep(0.01)
    tasks = [asyncio.create_task(batcher.embed([text])) for text in ("b", "poison", "c")]
    embedder.gate.set()
    await first
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[1], errors.InputRejectedError)
    assert np.array_equal(await tasks[0], hash_vectors(["b"], 8))
    assert np.array_equal(await tasks[2], hash_vectors(["c"], 8))


async def test_more_than_can_wait_is_refused_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_batching, "MAX_WAITING", 5)
    embedder = Gated()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1)
    first = asyncio.create_task(batcher.embed(["a"]))
    await asyncio.sleep(0.01)
    waits = asyncio.create_task(batcher.embed(["b"] * 5))
    await asyncio.sleep(0.01)
    with pytest.raises(errors.OverloadedError, match="5 texts are waiting"):
        await batcher.embed(["c"])
    embedder.gate.set()
    await asyncio.gather(first, waits)
    assert len(await batcher.embed(["c"])) == 1


async def test_calls_to_a_model_that_shares_its_batches_are_answered_one_by_one() -> None:
    embedder = Gated()
    embedder.gate.set()
    batcher = DynamicBatcher(embedder, "passage", concurrency=1, pass_through=True)
    found = await asyncio.gather(*(batcher.embed([text]) for text in "abc"))
    assert embedder.calls == [["a"], ["b"], ["c"]]
    assert np.array_equal(np.concatenate(found), hash_vectors(["a", "b", "c"], 8))


async def test_more_than_a_sharing_model_can_hold_is_refused_until_callers_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dynamic_batching, "MAX_WAITING", 5)
    embedder = Gated()
    batcher = DynamicBatcher(embedder, "passage", pass_through=True)
    waits = asyncio.create_task(batcher.embed(["a"] * 5))
    await asyncio.sleep(0)
    with pytest.raises(errors.OverloadedError, match="5 texts are waiting"):
        await batcher.embed(["b"])
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    embedder.gate.set()
    assert len(await batcher.embed(["b"])) == 1


@pytest.mark.parametrize("shares", [True, False])
async def test_a_server_gathers_for_models_that_do_not_share_their_batches(shares: bool) -> None:
    embedder = Gated()
    embedder.shares_batches = shares
    shared = PooledEmbedder(embedder, Metrics())
    calls = [asyncio.create_task(shared.embed_call([text])) for text in "abcdefghij"]
    await asyncio.sleep(0.01)
    embedder.gate.set()
    await asyncio.gather(*calls)
    assert (len(embedder.calls) == 10) is shares
