"""The server says what makes coverage untrue: status, coverage, readiness and metrics."""

from __future__ import annotations

from pathlib import Path

from tests.integration.harness import World, eventually, texts
from tests.integration.server.harness import Served
from tests.integration.server.test_serve_command import process

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


async def test_live_sync_of_the_server_logs_the_replaced_table(
    world: World, database: str, tmp_path: Path
) -> None:
    await world.insert(*texts(5))
    await world.fill()
    await world.sql(SWAP)
    async with process(tmp_path, DATABASE_URL=database) as served:
        await eventually(
            lambda: any(each.get("kind") == "table" for each in served.events), "the warning"
        )
        [event] = [each for each in served.events if each.get("kind") == "table"]
    assert event["level"] == "warning"
    assert "public.notes is another table now" in event["event"]
    assert (event["collection"], event["remedy"]) == ("notes", "Run: backline reconcile notes")
