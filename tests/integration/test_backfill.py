"""The main job: fill, and prove it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.integration.harness import World, overpaid, world
from tests.provider import StandInProvider

from backline.postgres.store import Store


@pytest.fixture
async def w(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    async with world(store, provider) as made:
        yield made


async def test_fills_everything(store: Store, provider: StandInProvider) -> None:
    async with world(store, provider) as w:
        await w.insert(*(f"text {n}" for n in range(120)), None, "", "  \n")
        report = await w.fill()
        assert report.complete
        assert (report.coverage.rows, report.embedded, report.coverage.blank) == (123, 120, 3)
        await w.check_complete()
        assert overpaid(provider) == {}


async def test_what_the_walk_bears_out_is_not_counted_again(w: World) -> None:
    """At ten million rows the count takes minutes."""
    await w.insert("one", "two", "")
    await w.sql(
        "create or replace function backline.recount(p_collection int, p_correct boolean default "
        "true) returns jsonb language plpgsql as $$ begin raise 'counted'; end $$"
    )
    report = await w.fill()
    assert (report.coverage.rows, report.coverage.embedded, report.coverage.blank) == (3, 2, 1)


@pytest.mark.parametrize("measure", ["rows", "embedded", "pending", "failed"])
async def test_a_ledger_that_the_walk_does_not_bear_out_is_set_right(
    w: World, measure: str
) -> None:
    await w.insert("one", "two")
    model = w.collection.model_id if measure == "embedded" else 0
    await w.sql(
        "insert into backline.counter_deltas values (%s, %s, %s, 1)",
        w.collection.id,
        measure,
        model,
    )
    report = await w.fill()
    coverage = report.coverage
    assert (coverage.rows, coverage.embedded, coverage.pending, coverage.failed) == (2, 2, 0, 0)
