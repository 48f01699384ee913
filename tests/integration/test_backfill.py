"""The main job: fill, and prove it."""

from __future__ import annotations

from tests.integration.harness import overpaid, world
from tests.provider import StandInProvider

from backline.store import Store


async def test_fills_everything(store: Store, provider: StandInProvider) -> None:
    async with world(store, provider) as w:
        await w.insert(*(f"text {n}" for n in range(120)), None, "", "  \n")
        report = await w.fill()
        assert report.complete
        assert (report.coverage.rows, report.embedded, report.coverage.blank) == (123, 120, 3)
        await w.check_complete()
        assert overpaid(provider) == {}
