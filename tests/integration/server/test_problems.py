"""The server says what makes coverage untrue: status, coverage, readiness and metrics."""

from __future__ import annotations

from tests.integration.harness import World, texts
from tests.integration.server.harness import Served

SWAP = (
    "create table new (like notes including all); insert into new select * from notes; "
    "alter table notes rename to old; alter table new rename to notes"
)


async def test_replaced_table_is_named_by_status_coverage_readiness_and_metrics(
    server: Served, world: World
) -> None:
    await world.insert(*texts(5))
    await world.fill()
    await world.sql(SWAP)
    status = (await server.http.get("/api/status")).json()
    [notes] = [each for each in status["collections"] if each["name"] == "notes"]
    assert notes["coverage"]["complete"] is False
    [problem] = notes["coverage"]["problems"]
    assert problem["kind"] == "table"
    assert problem["remedy"] == "Run: backline reconcile notes"
    coverage = (await server.http.get("/api/coverage", params={"collection": "notes"})).json()
    assert coverage["collections"][0]["coverage"]["problems"] == [problem]
    assert (await server.http.get("/health/ready")).json()["problems"] == 1
    metrics = (await server.http.get("/metrics")).text
    assert 'backline_problems{collection="notes",kind="table"} 1.0' in metrics
