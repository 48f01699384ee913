"""Texts longer than the model reads: dealt with as declared, counted, and never silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.integration.harness import World, declare, make_world, overpaid, quick_limiter
from tests.provider import StandInProvider

from backline import open_embedder, verify
from backline.backfill import Backfill
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.estimation import estimate
from backline.postgres.store import Store
from backline.types import LongText
from backline.worker.batching import split_text

LONG = " ".join(f"Take {n} of the voice in the small room." for n in range(1200))
LONGEST = " ".join(f"In mix {n} the voice needs air around it." for n in range(2500))


async def stored(world: World, key: int) -> np.ndarray[Any, Any]:
    [row] = await world.sql("select embedding::real[] as v from notes where id = %s", key)
    return np.array(row["v"], dtype=np.float32)


async def check_counts(world: World, long: int) -> None:
    """The ledger, the status and the stamps agree."""
    assert await world.store.recount(world.collection.id) == {}
    assert (await world.store.coverage(world.collection)).long == long
    [row] = await world.sql("select count(*) as n from backline.stamps where long and not stale")
    assert row["n"] == long


async def fill(world: World, policy: LongText) -> World:
    await world.insert("short", LONG, LONG, LONGEST, "")
    assert world.collection.long_text == policy
    return world


async def test_truncated_by_default_and_said_so(store: Store, provider: StandInProvider) -> None:
    async with make_world(store, provider) as world:
        await fill(world, "truncate")
        report = await world.fill()
        assert (report.embedded, report.failed, report.complete) == (4, 0, True)
        assert (report.long, sorted(report.long_keys)) == (3, ["2", "3", "4"])
        [run] = await store.runs(world.collection)
        assert run.long == 3
        beginning = world.embedder.truncate(LONG)
        assert LONG.startswith(beginning)
        assert set(provider.texts_embedded) == {
            "short",
            beginning,
            world.embedder.truncate(LONGEST),
        }
        np.testing.assert_allclose(
            await stored(world, 2), hash_vectors([beginning], 8)[0], rtol=0, atol=1e-4
        )
        assert overpaid(provider) == {}
        assert (await verify(store, world.collection)).passed
        await check_counts(world, 3)
        await world.sql("update notes set body = 'short now' where id = 2")
        await world.fill()
        await check_counts(world, 2)


async def test_a_vector_from_the_cache_is_still_of_a_long_text(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider) as world:
        await fill(world, "truncate")
        await world.fill()
        calls = len(provider.calls)
        await world.insert(LONG, first=50)
        report = await world.fill()
        assert (report.embedded, report.reused, report.long) == (1, 1, 1)
        assert len(provider.calls) == calls
        await check_counts(world, 4)


def mean_of(texts: Sequence[str], embedder: Embedder) -> np.ndarray[Any, Any]:
    """What is to be stored for a text in parts, worked out in double precision."""
    weights = np.array(embedder.count_tokens(texts), dtype=np.float64)
    mean = weights @ hash_vectors(texts, 8).astype(np.float64)
    return np.asarray(mean / np.linalg.norm(mean))


async def test_averaged_over_parts(store: Store, provider: StandInProvider) -> None:
    async with make_world(store, provider, long_text="average") as world:
        await fill(world, "average")
        report = await world.fill()
        assert (report.embedded, report.failed, report.complete) == (4, 0, True)
        assert (report.long, sorted(report.long_keys)) == (3, ["2", "3", "4"])
        most = world.embedder.model.max_tokens
        sent = list(provider.texts_embedded)
        assert all(count <= most for count in world.embedder.count_tokens(sent))
        for key, text in ((2, LONG), (3, LONG), (4, LONGEST)):
            parts = sorted((part for part in sent if part in text), key=text.index)
            assert len(parts) > 1
            assert "".join(parts) == text
            np.testing.assert_allclose(
                await stored(world, key), mean_of(parts, world.embedder), rtol=0, atol=1e-4
            )
        assert report.tokens == sum(world.embedder.count_tokens(sent))
        assert overpaid(provider) == {}
        assert (await verify(store, world.collection)).passed
        await check_counts(world, 3)


async def test_parts_that_repeat_are_sent_once_and_weigh_as_often(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider, long_text="average") as world:
        text = "word " * 30_000
        await world.insert(text + "and an end")
        await world.fill()
        assert overpaid(provider) == {}
        parts = split_text(
            text + "and an end", world.embedder.model.max_tokens, world.embedder.truncate
        )
        assert len(parts) > len(provider.texts_embedded) == 2
        np.testing.assert_allclose(
            await stored(world, 1), mean_of(parts, world.embedder), rtol=0, atol=1e-4
        )


async def test_averaged_through_refusals_and_outages(
    store: Store, provider: StandInProvider
) -> None:
    """No part is paid for twice, whatever comes between."""
    async with make_world(store, provider, long_text="average") as world:
        await fill(world, "average")
        provider.fail_next(429, times=2, retry_after=1)
        provider.fail_next(500, times=2)
        provider.drop_next(times=2)
        report = await world.fill(batch_size=2)
        assert (report.embedded, report.failed) == (4, 0)
        assert overpaid(provider) == {}
        assert (await verify(store, world.collection)).passed


async def test_a_part_that_is_rejected_fails_its_text_alone(
    store: Store, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    async with make_world(store, provider, long_text="average") as world:
        await world.insert("short", LONG + "POISON POISON", LONGEST, "POISON " + LONG + " POISON")
        report = await world.fill()
        assert (report.embedded, report.failed, report.coverage.failed) == (2, 2, 2)
        assert sorted(await world.failures()) == ["2", "4"]
        await world.sql("update notes set body = replace(body, 'POISON', 'well')")
        await world.fill()
        assert (await verify(store, world.collection)).passed
        await check_counts(world, 3)


async def test_rejected_where_that_is_declared(store: Store, provider: StandInProvider) -> None:
    async with make_world(store, provider, long_text="reject") as world:
        await fill(world, "reject")
        report = await world.fill()
        assert (report.embedded, report.failed) == (1, 3)
        assert set(provider.texts_embedded) == {"short"}
        failures = [failure async for failure in store.failures(world.collection)]
        assert [(f.key, f.kind) for f in failures] == [(k, "too long") for k in "234"]
        [tokens] = world.embedder.count_tokens([LONG.strip()])
        assert f"The text has {tokens:,} tokens, the model reads 8,192" in failures[0].error
        assert "--long-text truncate or average" in failures[0].error
        await check_counts(world, 0)
        await world.sql("update notes set body = 'short now' where id > 1")
        await world.fill()
        await world.check_complete()


async def test_collections_that_differ_in_this_share_no_long_vector(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider) as world:
        await fill(world, "truncate")
        await world.fill()
        truncated = await stored(world, 2)
        await store.drop_collection(world.collection, drop_column=True)
        world.collection = await declare(store, world.embedder, long_text="average")
        await world.fill()
        averaged = await stored(world, 2)
        assert np.abs(truncated - averaged).max() > 0.01
        assert provider.texts_embedded["short"] == 1, "a short text is the same for both"
        await check_counts(world, 3)


@pytest.mark.parametrize("policy", ["truncate", "average", "reject"])
async def test_a_preview_counts_what_would_be_sent(store: Store, policy: LongText) -> None:
    embedder = HashEmbedder(8)
    async with make_world(store, embedder=embedder, long_text=policy) as world:
        await fill(world, policy)
        found = await estimate(store, world.collection, embedder)
        report = await world.fill()
        assert (found.long, found.long_text) == (2, policy)
        # Parts end between words, so that their tokens are a few more or less than the text's.
        assert found.tokens == pytest.approx(report.tokens, rel=0.001)
        assert report.failed == (3 if policy == "reject" else 0)


async def test_the_local_model_s_own_tokenizer(store: Store) -> None:
    """256 tokens, special ones included; the parts are embedded as texts of their own."""
    embedder = await open_embedder("local")
    async with make_world(store, embedder=embedder, long_text="average") as world:
        text = " ".join(LONG.split()[:600])
        await world.insert("short", text)
        report = await Backfill(
            store, world.collection, embedder, quick_limiter(), world.options
        ).run()
        assert (report.embedded, report.long, report.long_keys) == (2, 1, ["2"])
        parts = split_text(text, embedder.model.max_tokens, embedder.truncate)
        assert "".join(parts) == text
        counts = embedder.count_tokens(parts)
        assert max(counts) <= embedder.model.max_tokens == 256
        assert len(parts) > 1
        vectors = await embedder.embed(parts)
        mean = np.average(vectors, axis=0, weights=counts)
        found = await stored(world, 2)
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), rtol=0, atol=1e-3)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-4)
        [whole] = await embedder.embed([embedder.truncate(text)])
        assert found @ whole > 0.5
        assert report.tokens >= sum(counts)
