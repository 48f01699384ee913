"""Texts that are split into passages: each has its vector, and an edit sends what changed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.harness import World, make_world
from tests.provider import StandInProvider

from backline.postgres.store import Store
from backline.search.query import Query, search
from backline.types import Splitting
from backline.verification import verify

SPLITTING = Splitting("auto", 48)


def paragraph(number: int) -> str:
    """Return a paragraph that fills a passage by itself."""
    return " ".join(f"w{number:03}x{n}" for n in range(7)) + "."


def document(first: int = 0, count: int = 100) -> list[str]:
    """Return the paragraphs of a document."""
    return [paragraph(n) for n in range(first, first + count)]


@pytest.fixture
async def split_world(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    """An empty collection `notes` of passages, embedded by the stand-in provider."""
    async with make_world(store, provider, into="note_passages", splitting=SPLITTING) as world:
        yield world


async def passages(world: World, key: int = 1) -> list[dict[str, Any]]:
    """Return the passages of a row with their texts, in order."""
    return await world.sql(
        'select p.*, substr(n.body, p.start + 1, p."end" - p.start) as text '
        "from backline_vectors.note_passages p join notes n on n.id = p.key_1 "
        "where p.key_1 = %s order by p.ordinal",
        key,
    )


async def check_filled(world: World) -> None:
    """Assert that every row is embedded, and that verify and the stamps agree."""
    verification = await verify(world.store, world.collection)
    assert verification.problems == {}
    assert await world.store.recount(world.collection.id) == {}


async def edit(world: World, body: str) -> int:
    """Change the text of row 1, and return how many texts were sent for it."""
    before = sum(world_provider(world).texts_embedded.values())
    await world.sql("update notes set body = %s where id = 1", body)
    await world.fill()
    await check_filled(world)
    return sum(world_provider(world).texts_embedded.values()) - before


def world_provider(world: World) -> StandInProvider:
    provider = getattr(world, "provider", None)
    assert isinstance(provider, StandInProvider)
    return provider


async def test_edits_of_a_document_send_at_most_three_texts(
    split_world: World, provider: StandInProvider
) -> None:
    split_world.provider = provider  # type: ignore[attr-defined]
    parts = document()
    await split_world.insert("\n\n".join(parts), "short", "")
    report = await split_world.fill()
    assert (report.stopped_by, report.embedded, report.failed, report.complete) == (
        None,
        2,
        0,
        True,
    )
    found = await passages(split_world)
    assert len(found) == 100
    assert [each["text"] for each in found] == parts
    assert [each["ordinal"] for each in found] == list(range(100))
    for each in found:
        assert each["hash"] == hashlib.sha256(each["text"].encode()).digest()
    await check_filled(split_world)

    parts[50] = paragraph(200)
    assert 1 <= await edit(split_world, "\n\n".join(parts)) <= 3
    parts.insert(0, paragraph(300))
    assert 1 <= await edit(split_world, "\n\n".join(parts)) <= 3
    del parts[40]
    assert await edit(split_world, "\n\n".join(parts)) <= 3
    assert [each["text"] for each in await passages(split_world)] == parts


async def test_search_returns_rows_with_their_best_passages(
    split_world: World, provider: StandInProvider
) -> None:
    await split_world.insert("\n\n".join(document(0, 20)), "\n\n".join(document(20, 20)), "short")
    await split_world.fill()
    hits = await search(
        split_world.store, split_world.collection, split_world.embedder,
        Query(paragraph(25), "semantic", 3),
    )  # fmt: skip
    assert hits[0].key == "2"
    assert sorted(hit.key for hit in hits) == ["1", "2", "3"]
    best = hits[0].passages[0]
    assert (best.ordinal, best.text) == (5, paragraph(25))
    assert best.score == pytest.approx(1, abs=1e-3)
    assert hits[0].content[best.start : best.end] == best.text
