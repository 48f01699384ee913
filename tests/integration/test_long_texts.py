"""Texts longer than the model's limit are treated as declared, counted and reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.integration.harness import (
    LONG,
    World,
    declare,
    make_world,
    overpaid,
    quick_limiter,
)
from tests.provider import StandInProvider

from backline import open_embedder, verify
from backline.backfill import Backfill
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.estimation import estimate
from backline.postgres.store import Store
from backline.types import LongText
from backline.worker.batching import split_text

LONGEST = " ".join(f"In mix {n} the voice needs air around it." for n in range(2500))


async def check_counts(world: World, long: int) -> None:
    """Assert that counters, coverage and stamps agree on the number of long texts."""
    assert await world.store.recount(world.collection.id) == {}
    assert (await world.store.coverage(world.collection)).long == long
    [row] = await world.sql("select count(*) as n from backline.stamps where long and not stale")
    assert row["n"] == long


async def insert_long_texts(world: World, policy: LongText) -> None:
    await world.insert("short", LONG, LONG, LONGEST, "")
    assert world.collection.long_text == policy


async def test_long_texts_are_truncated_by_default_and_reported(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider) as world:
        await insert_long_texts(world, "truncate")
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
            await world.stored_vector(2), hash_vectors([beginning], 8)[0], rtol=0, atol=1e-4
        )
        assert overpaid(provider) == {}
        assert (await verify(store, world.collection)).passed
        await check_counts(world, 3)
        await world.sql("update notes set body = 'short now' where id = 2")
        await world.fill()
        await check_counts(world, 2)


async def test_reused_vector_of_a_long_text_counts_as_long(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider) as world:
        await insert_long_texts(world, "truncate")
        await world.fill()
        calls = len(provider.calls)
        await world.insert(LONG, first=50)
        report = await world.fill()
        assert (report.embedded, report.reused, report.long) == (1, 1, 1)
        assert len(provider.calls) == calls
        await check_counts(world, 4)


def mean_of(texts: Sequence[str], embedder: Embedder) -> np.ndarray[Any, Any]:
    """Return the expected vector of a text in parts, computed in double precision."""
    weights = np.array(embedder.count_tokens(texts), dtype=np.float64)
    mean = weights @ hash_vectors(texts, 8).astype(np.float64)
    return np.asarray(mean / np.linalg.norm(mean))


async def test_long_text_gets_the_weighted_mean_of_its_parts(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider, long_text="average") as world:
        await insert_long_texts(world, "average")
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
                await world.stored_vector(key), mean_of(parts, world.embedder), rtol=0, atol=1e-4
            )
        assert report.tokens == sum(world.embedder.count_tokens(sent))
        assert overpaid(provider) == {}
        assert (await verify(store, world.collection)).passed
        await check_counts(world, 3)


async def test_repeated_parts_are_sent_once_and_weighted_by_their_count(
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
            await world.stored_vector(1), mean_of(parts, world.embedder), rtol=0, atol=1e-4
        )


async def test_no_part_is_embedded_twice_despite_provider_errors(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider, long_text="average") as world:
        await insert_long_texts(world, "average")
        provider.fail_next(429, times=2, retry_after=1)
        provider.fail_next(500, times=2)
        provider.drop_next(times=2)
        report = await world.fill(batch_size=2)
        assert (report.embedded, report.failed) == (4, 0)
        assert overpaid(provider) == {}
        assert (await verify(store, world.collection)).passed


async def test_rejected_part_fails_only_its_text(store: Store, provider: StandInProvider) -> None:
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


async def test_policy_reject_sends_no_long_text(store: Store, provider: StandInProvider) -> None:
    async with make_world(store, provider, long_text="reject") as world:
        await insert_long_texts(world, "reject")
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


async def test_collections_with_different_policies_share_only_vectors_of_short_texts(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider) as world:
        await insert_long_texts(world, "truncate")
        await world.fill()
        truncated = await world.stored_vector(2)
        await store.drop_collection(world.collection, drop_column=True)
        world.collection = await declare(store, world.embedder, long_text="average")
        await world.fill()
        averaged = await world.stored_vector(2)
        assert np.abs(truncated - averaged).max() > 0.01
        assert provider.texts_embedded["short"] == 1, "the short text was embedded for each policy"
        await check_counts(world, 3)


@pytest.mark.parametrize("policy", ["truncate", "average", "reject"])
async def test_estimate_counts_the_tokens_that_a_run_sends(store: Store, policy: LongText) -> None:
    embedder = HashEmbedder(8)
    async with make_world(store, embedder=embedder, long_text=policy) as world:
        await insert_long_texts(world, policy)
        estimated = await estimate(store, world.collection, embedder)
        report = await world.fill()
        assert (estimated.long, estimated.long_text) == (2, policy)
        # Cutting a text between words changes its number of tokens slightly.
        assert estimated.tokens == pytest.approx(report.tokens, rel=0.001)
        assert report.failed == (3 if policy == "reject" else 0)


async def test_local_model_embeds_the_parts_of_a_long_text(store: Store) -> None:
    """Its limit is 256 tokens including special ones, which each part needs again."""
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
        vector = await world.stored_vector(2)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=0, atol=1e-3)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
        [whole] = await embedder.embed([embedder.truncate(text)])
        assert vector @ whole > 0.5
        assert report.tokens >= sum(counts)
