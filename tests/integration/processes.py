"""Workers in processes of their own, which a test can kill or stop."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.integration.harness import World
from tests.provider import StandInProvider

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def worker_process(
    world: World, provider: StandInProvider, mode: str, *flags: str, url: str = ""
) -> AsyncIterator[Process]:
    """Start a worker in a process, which is killed at the end of the block if it still runs.

    It connects to `url`, by default to the database of the world.
    """
    url = url or world.store.connector.conninfo
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.runner", mode, url, provider.base_url, *flags,
        cwd=ROOT, stdout=PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def read_line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()


async def read_report(process: Process) -> dict[str, Any]:
    """Return the report of a backfill, after its warnings."""
    while not (line := await read_line(process)).startswith("{"):
        assert line, "the process ended without a report"
    report: dict[str, Any] = json.loads(line)
    return report
