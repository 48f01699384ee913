"""Calls of a project are sent to its own address only."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr
from tests.provider.http import Answer, Request, serve_connection

from backline import errors
from backline.supabase.client import open_project
from backline.supabase.keys import read_key


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_not_followed(status: int) -> None:
    paths: list[str] = []

    async def redirect(request: Request) -> Answer:
        paths.append(request.path)
        if request.path == "/elsewhere":
            return Answer(200, b"[]")
        return Answer(status, headers={"location": "/elsewhere"})

    server = await asyncio.start_server(
        lambda reader, writer: serve_connection(redirect, reader, writer), "127.0.0.1", 0
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with open_project(url, read_key(SecretStr("sb_secret_1"), "KEY")) as project:
        with pytest.raises(errors.ConfigurationError, match="Set SUPABASE_URL"):
            await project.call("collections", collection=1)
    server.close()
    assert paths == ["/rest/v1/rpc/backline_collections"]
