"""Whole rows and passages are stored in side tables over every transport."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.integration.harness import World, overpaid
from tests.provider import StandInProvider
from tests.supabase.stack import Project
from tests.transports.transport import TRANSPORTS, Transport

# The Edge Function does not split texts.
SPLITTING = tuple(name for name in TRANSPORTS if name != "edge")


def documents(count: int) -> list[str]:
    """Return texts of three paragraphs, each of which fills a passage."""
    return [
        "\n\n".join(
            " ".join(f"w{n:03}p{part}x{word}" for word in range(6)) + "." for part in range(3)
        )
        for n in range(count)
    ]


@pytest.fixture
async def side(
    transport: Transport,
    project: Project,
    provider: StandInProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    """An empty collection with a side table, and a worker that uses the transport."""
    monkeypatch.setenv("BACKLINE_TESTED_SIDE_TABLE", "notes_vectors")
    async with transport.world(project, provider) as world:
        yield world


@pytest.fixture
async def split(
    transport: Transport,
    project: Project,
    provider: StandInProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    """An empty collection of passages, and a worker that uses the transport."""
    monkeypatch.setenv("BACKLINE_TESTED_PASSAGES", "48")
    async with transport.world(project, provider) as world:
        yield world


async def test_side_table_is_filled_and_follows_edits(
    side: World, provider: StandInProvider
) -> None:
    await side.insert(*(f"note number {n}" for n in range(40)), "")
    assert (await side.fill()).embedded == 40
    await side.sql("update notes set body = 'edited' where id = 3")
    await side.sql("update notes set body = null where id = 4")
    await side.sql("delete from notes where id = 5")
    assert (await side.fill()).embedded == 1
    await side.check_complete()
    assert overpaid(provider) == Counter()


@pytest.mark.parametrize("transport", SPLITTING, indirect=True)
async def test_two_workers_fill_passages_and_an_edit_sends_what_changed(
    split: World, provider: StandInProvider
) -> None:
    await split.insert(*documents(40), "a short one", "")
    await asyncio.gather(split.fill(), split.fill())
    await split.check_complete()
    [row] = await split.sql("select count(*) as count from backline_vectors.tested")
    assert row["count"] == 40 * 3 + 1
    sent = sum(provider.texts_embedded.values())
    await split.sql("update notes set body = replace(body, 'p1x', 'edited') where id = 2")
    assert (await split.fill()).embedded == 1
    await split.check_complete()
    assert sum(provider.texts_embedded.values()) - sent == 1
    assert overpaid(provider) == Counter()
