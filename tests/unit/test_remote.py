"""Rows are sent to the configured address of a remote service only."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest
from tests.provider.http import Answer, Request, serve_connection

from backline import errors
from backline.worker.remote import Remote, RemoteTransport, Target


@pytest.mark.parametrize(
    ("transport", "setting"), [("api", "BACKLINE_API_URL"), ("edge", "BACKLINE_SUPABASE_URL")]
)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_not_followed(
    transport: RemoteTransport, setting: str, status: int
) -> None:
    paths: list[str] = []

    async def redirect(request: Request) -> Answer:
        paths.append(request.path)
        if request.path == "/elsewhere":
            return Answer(200, b'{"skipped": [], "failed": []}')
        return Answer(status, headers={"location": "/elsewhere?token=secret"})

    server = await asyncio.start_server(
        lambda reader, writer: serve_connection(redirect, reader, writer), "127.0.0.1", 0
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/rows"
    collection = Mock()
    collection.name = "notes"
    remote = Remote(Target(transport, url, {}, url, 10.0), collection)
    with pytest.raises(errors.ProviderRefusedError, match=f"/elsewhere.*{setting}") as caught:
        await remote.upsert([("1", "a private text")])
    await remote.aclose()
    server.close()
    assert "secret" not in str(caught.value)
    assert paths == ["/rows"]
