"""A backfill has the same outcome over every transport."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter

import pytest

from backline import search
from backline.verification import verify
from tests.integration.harness import World, overpaid, running
from tests.provider import StandInProvider
from tests.supabase.stack import Project
from tests.transports.transport import STORES, Transport

AWKWARD = [
    "ⓐ ünïcode 🎛️",
    'quote " and \\ backslash',
    "tab\tand\nline",
    "<|endoftext|>",
    "{a,b}",
]


def numbered(count: int) -> list[str]:
    return [f"note number {n}" for n in range(count)]


async def test_rejected_row_fails_alone_and_succeeds_after_a_retry(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="BAD")
    await world.insert(*numbered(230), "BAD one", "", *numbered(20))
    report = await world.fill(batch_size=50)
    assert (report.embedded, report.failed, report.state) == (250, 1, "completed")
    assert [failure[:2] for failure in report.failures] == [("231", "rejected")]
    [failure] = [failure async for failure in world.store.failures(world.collection)]
    assert (failure.key, failure.kind, failure.run_id) == ("231", "rejected", report.run)
    await world.check_complete(dead=["231"])
    assert overpaid(provider) == Counter()
    again = await world.fill()
    assert (again.embedded, again.batches) == (0, 0)
    provider.behave(reject_marker=None)
    assert await world.store.retry_failures(world.collection, ["231"]) == 1
    assert (await world.fill()).complete
    await world.check_complete()


async def test_edit_during_embedding_is_not_overwritten(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*numbered(6))
    with provider.held():
        async with running(world.fill()) as filling:
            await asyncio.to_thread(provider.wait_in_flight)
            await world.sql("update notes set body = 'edited meanwhile' where id = 3")
            await world.sql("delete from notes where id = 4")
            provider.behave(held=False)
            await filling
    await world.check_complete()
    assert provider.texts_embedded["edited meanwhile"] == 1


async def test_row_that_postgres_refuses_becomes_a_dead_letter(
    world: World, provider: StandInProvider, transport: Transport
) -> None:
    await world.sql("alter table notes add check (id <> 3 or embedding is null)")
    await world.insert(*numbered(8), "note number 2")
    report = await world.fill()
    assert (report.embedded, report.failed) == (8, 1)
    assert re.search(transport.refusal, (await world.failures())["3"])
    await world.check_complete(dead=["3"])
    assert overpaid(provider) == Counter()
    assert await world.store.drop_failures(world.collection, None) == 1


async def test_provider_faults_are_waited_out_and_fail_no_row(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*numbered(100))
    provider.fail_next(429, times=3, retry_after=1)
    provider.fail_next(503, times=2)
    report = await world.fill()
    assert (report.embedded, report.failed) == (100, 0)
    await world.check_complete()
    assert overpaid(provider) == Counter()


@pytest.mark.parametrize(
    ("transport", "status"),
    [("rest", 429), ("rest", 503), ("edge", 429), ("edge", 503), ("edge", 546)],
    indirect=["transport"],
)
async def test_failing_gateway_fails_no_row_and_costs_no_second_embedding(
    world: World, project: Project, provider: StandInProvider, transport: Transport, status: int
) -> None:
    await world.insert(*numbered(200))
    await world.sql("delete from backline.jobs")  # so that a scan claims the rows in batches
    assert transport.interrupt is not None
    transport.interrupt(project.gateway, status)
    report = await world.fill()
    assert (report.embedded, report.failed, report.complete) == (200, 0, True)
    await world.check_complete()
    assert overpaid(provider) == Counter()


async def test_awkward_texts_are_embedded_and_vectors_stored_exactly(world: World) -> None:
    await world.insert(*AWKWARD, *numbered(40))
    report = await world.fill()
    assert (report.embedded, report.failed) == (45, 0)
    await world.check_complete()
    rows = await world.sql("select body, embedding::text as vector from notes")
    vectors = await world.embedder.embed([row["body"] for row in rows])
    for row, vector in zip(rows, vectors, strict=True):
        assert [float(x) for x in json.loads(row["vector"])] == pytest.approx(
            vector.tolist(), abs=0, rel=1e-7
        )


@pytest.mark.parametrize("transport", STORES, indirect=True)
async def test_filled_rows_are_searchable_verified_and_recorded_as_a_run(world: World) -> None:
    await world.insert("muddy vocals", "punchy drums", "wide pads")
    report = await world.fill()
    hits = await search.search(
        world.store,
        world.collection,
        world.embedder,
        search.Query("punchy drums", limit=2, snippets=True),
    )
    assert (hits[0].key, hits[0].row["body"]) == ("2", "punchy drums")
    assert hits[0].snippet is not None and "<mark>" in hits[0].snippet
    verification = await verify(world.store, world.collection)
    assert (verification.rows, verification.embedded, verification.passed) == (3, 3, True)
    [run] = await world.store.runs(world.collection)
    assert (run.id, run.state, run.embedded) == (report.run, "completed", 3)
    assert run.finished_at is not None and run.finished_at >= run.started_at
    await world.sql("update notes set body = 'tight drums' where id = 2")
    assert (await world.store.coverage(world.collection)).pending == 1
    assert (await verify(world.store, world.collection)).problems == {"stale text": 1}
