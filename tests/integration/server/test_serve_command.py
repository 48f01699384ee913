"""`backline serve` as a process, from its first line to its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.conftest import server_folder
from tests.integration.harness import World, eventually
from tests.integration.server.harness import TIMEOUT_S, with_provider
from tests.provider import StandInProvider

BACKLINE = str(Path(sys.executable).with_name("backline"))


@dataclass
class Process:
    """A server process with the lines of its standard error."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())

    @property
    def url(self) -> str:
        matches = [re.search(r"Serving .* on (http://\S+)", line) for line in self.lines]
        return next((match[1] for match in matches if match), "")

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 30)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]


@asynccontextmanager
async def process(folder: Path, *args: str, **environment: str) -> AsyncIterator[Process]:
    made = Process(
        await asyncio.create_subprocess_exec(
            BACKLINE, "serve", "--port", "0", *args, cwd=folder, stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **environment}, stderr=asyncio.subprocess.PIPE,
        )
    )  # fmt: skip
    reader = asyncio.create_task(made.read())
    try:
        await eventually(
            lambda: made.url or made.process.returncode is not None, "the server to listen", 60
        )
        yield made
    finally:
        if made.process.returncode is None:
            made.process.kill()
        await made.process.wait()
        await reader


async def test_server_embeds_edits_and_exits_cleanly(
    world: World, database: str, tmp_path: Path
) -> None:
    async with process(tmp_path, DATABASE_URL=database) as served:
        assert served.url.startswith("http://127.0.0.1:"), served.lines
        async with httpx2.AsyncClient(base_url=served.url, timeout=TIMEOUT_S) as http:
            await world.insert("a live edit")
            await world.wait_until_idle()
            status = await http.get("/api/status", headers={"X-Request-ID": "mine"})
            assert status.json()["server"]["worker"] is True
            page = await http.get("/", headers={"Accept": "text/html"})
            assert page.status_code == 200 and "<html" in page.text
        assert await served.end() == 0, served.lines
    [request] = [e for e in served.events if e.get("request_id") == "mine"]
    assert (request["path"], request["status"], request["level"]) == ("/api/status", 200, "info")
    await world.check_complete()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_stopped_server_releases_the_rows_of_its_run(
    paid: World, database: str, provider: StandInProvider, tmp_path: Path, number: int
) -> None:
    await paid.insert(*(f"text {n}" for n in range(3000)))
    provider.behave(delay_s=0.3)  # 22 s for all rows
    settings = with_provider(provider)
    async with process(
        tmp_path, "--no-worker", DATABASE_URL=database, OPENAI_API_KEY=provider.api_key,
        OPENAI_BASE_URL=settings["openai_base_url"],
    ) as served:  # fmt: skip
        async with httpx2.AsyncClient(base_url=served.url, timeout=TIMEOUT_S) as http:
            body = {"collection": "notes", "batch_size": 5}
            assert (await http.post("/api/runs", json=body)).status_code == 202
            await asyncio.to_thread(provider.wait_calls, 10)
        assert await served.end(number) == 0, served.lines
    assert set((await paid.jobs()).values()) <= {None}
    [run] = await paid.store.runs()
    assert run.state == "interrupted" and 0 < run.embedded < 3000
    assert await paid.sql("select * from backline.workers") == []
    provider.reset()
    await paid.fill()
    await paid.check_complete()


async def test_killed_server_loses_nothing(
    paid: World, database: str, provider: StandInProvider, tmp_path: Path
) -> None:
    await paid.insert(*(f"text {n}" for n in range(200)))
    provider.behave(delay_s=0.1)
    settings = with_provider(provider)
    async with process(
        tmp_path, DATABASE_URL=database, OPENAI_API_KEY=provider.api_key,
        OPENAI_BASE_URL=settings["openai_base_url"], BATCH_SIZE="5",
    ) as served:  # fmt: skip
        await asyncio.to_thread(provider.wait_calls, 5)
        assert await served.end(signal.SIGKILL) == -signal.SIGKILL
    await paid.check_consistent()
    provider.reset()
    report = await paid.fill()
    assert report.coverage.complete and report.coverage.embedded == 200
    await paid.check_consistent()
    assert await paid.jobs() == {}


async def test_embedded_database_is_migrated(tmp_path: Path) -> None:
    with server_folder() as data:
        async with process(tmp_path, "--no-worker", BACKLINE_DATA_DIR=str(data)) as served:
            assert served.url, served.lines
            assert any("applied" in line and "embedded" in line for line in served.lines)
            async with httpx2.AsyncClient(base_url=served.url, timeout=TIMEOUT_S) as http:
                status = (await http.get("/api/status")).json()
                assert status["collections"] == []
                assert str(data) in status["database"]["where"]
            assert await served.end() == 0


@pytest.mark.parametrize(
    ("args", "environment", "message"),
    [
        (["--host", "0.0.0.0"], {}, "BACKLINE_API_KEY"),
        (["--protect-reads"], {}, "BACKLINE_API_KEY"),
        (["--database-url", "postgresql://u:secret-p@127.0.0.1:1/x"], {}, "cannot be reached"),
        ([], {"BACKLINE_CORS_ORIGINS": "*"}, "BACKLINE_CORS_ORIGINS"),
        ([], {"BACKLINE_MAX_ROWS": "many"}, "BACKLINE_MAX_ROWS"),
    ],
)
async def test_invalid_settings_prevent_the_start(
    tmp_path: Path, args: list[str], environment: dict[str, str], message: str, database: str
) -> None:
    async with process(tmp_path, *args, **{"DATABASE_URL": database, **environment}) as served:
        assert await asyncio.wait_for(served.process.wait(), 30) == 2
    assert message in "\n".join(served.lines)
    assert "secret-p" not in "\n".join(served.lines)


async def test_external_database_is_not_migrated(empty_database: str, tmp_path: Path) -> None:
    async with process(tmp_path, DATABASE_URL=empty_database) as served:
        assert await asyncio.wait_for(served.process.wait(), 30) == 2
    assert "backline migrate" in "\n".join(served.lines)
