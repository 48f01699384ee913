"""A backfill embeds every row, and its report matches the table."""

from __future__ import annotations

import pytest
from tests.integration.harness import World, overpaid, texts
from tests.provider import StandInProvider


async def test_backfill_embeds_every_row_once(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(120), None, "", "  \n")
    report = await world.fill()
    assert report.complete
    assert (report.coverage.rows, report.embedded, report.coverage.blank) == (123, 120, 3)
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_backfill_skips_the_recount_when_scan_and_counters_agree(world: World) -> None:
    """At ten million rows a recount takes minutes."""
    await world.insert("one", "two", "")
    await world.sql(
        "create or replace function backline.recount(p_collection int, p_correct boolean default "
        "true) returns jsonb language plpgsql as $$ begin raise 'counted'; end $$"
    )
    report = await world.fill()
    assert (report.coverage.rows, report.coverage.embedded, report.coverage.blank) == (3, 2, 1)


@pytest.mark.parametrize("measure", ["rows", "embedded", "pending", "failed"])
async def test_backfill_corrects_counters_that_differ_from_the_scan(
    world: World, measure: str
) -> None:
    await world.insert("one", "two")
    model = world.collection.model_id if measure == "embedded" else 0
    await world.sql(
        "insert into backline.counter_deltas values (%s, %s, %s, 1)",
        world.collection.id,
        measure,
        model,
    )
    report = await world.fill()
    coverage = report.coverage
    assert (coverage.rows, coverage.embedded, coverage.pending, coverage.failed) == (2, 2, 0, 0)
