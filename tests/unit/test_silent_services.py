"""A request is given up if its service does not answer, or answers one byte at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from backline import errors
from backline.supabase import client
from backline.supabase.keys import choose_key
from backline.worker.remote import Remote, Target

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"


@asynccontextmanager
async def silent_service(*, trickles: bool) -> AsyncIterator[tuple[str, list[float]]]:
    """Serve requests without an end of the response; yield the URL and the times of requests."""
    requests: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        requests.append(time.monotonic())
        if trickles:
            writer.write(HEAD)
        while trickles and not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.05)
        with suppress(ConnectionError):
            await reader.read()
        writer.transport.abort()

    served: set[Any] = set()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests
    server.close()
    await asyncio.wait(served)


@pytest.mark.parametrize("trickles", [False, True])
async def test_call_of_a_silent_project_is_bounded(
    monkeypatch: pytest.MonkeyPatch, *, trickles: bool
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", httpx.Timeout(0.5))
    monkeypatch.setattr(client, "WHOLE_SECONDS", 0.6)
    monkeypatch.setattr(client, "REPEAT_SECONDS", 0.7)
    key = choose_key(None, Mock(get_secret_value=lambda: "sb_secret_x"), "write")
    async with silent_service(trickles=trickles) as (url, requests):
        started = time.monotonic()
        async with client.open_project(url, key) as project:
            with pytest.raises(errors.DatabaseUnavailableError, match="cannot be reached"):
                await project.call("now")
        assert time.monotonic() - started < 3
    assert len(requests) == 2, "a repetition begins within REPEAT_SECONDS"


@pytest.mark.parametrize("trickles", [False, True])
async def test_request_to_a_silent_server_is_bounded(*, trickles: bool) -> None:
    collection = Mock()
    collection.name = "notes"
    async with silent_service(trickles=trickles) as (url, requests):
        remote = Remote(Target("api", url, {}, url, 0.5), collection)
        started = time.monotonic()
        with pytest.raises(errors.ProviderUnavailableError, match="does not answer"):
            await remote.upsert([("1", "text")])
        assert time.monotonic() - started < 2
        await remote.aclose()
    assert len(requests) == 1
