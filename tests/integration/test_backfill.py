"""The main job: fill, and prove it."""

from __future__ import annotations

import pytest
from tests.integration.harness import World, make_world, overpaid
from tests.provider import StandInProvider

from backline.postgres.store import Store


async def test_fills_everything(store: Store, provider: StandInProvider) -> None:
    async with make_world(store, provider) as world:
        await world.insert(*(f"text {n}" for n in range(120)), None, "", "  \n")
        report = await world.fill()
        assert report.complete
        assert (report.coverage.rows, report.embedded, report.coverage.blank) == (123, 120, 3)
        await world.check_complete()
        assert overpaid(provider) == {}


async def test_what_the_walk_bears_out_is_not_counted_again(world: World) -> None:
    """At ten million rows the count takes minutes."""
    await world.insert("one", "two", "")
    await world.sql(
        "create or replace function backline.recount(p_collection int, p_correct boolean default "
        "true) returns jsonb language plpgsql as $$ begin raise 'counted'; end $$"
    )
    report = await world.fill()
    assert (report.coverage.rows, report.coverage.embedded, report.coverage.blank) == (3, 2, 1)


@pytest.mark.parametrize("measure", ["rows", "embedded", "pending", "failed"])
async def test_a_ledger_that_the_walk_does_not_bear_out_is_set_right(
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
