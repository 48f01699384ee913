"""A server on a real socket in the test's event loop, and its HTTP and WebSocket clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import websockets
from pydantic import SecretStr
from tests.integration.harness import World, make_world
from tests.provider import StandInProvider

from backline.config import Settings
from backline.embedders.hash import HashEmbedder
from backline.postgres.store import Store
from backline.server import create_app, uvicorn
from backline.server.services import Services

# Timeout of every wait, long enough for a busy machine.
TIMEOUT_S = 60.0

NOTES = "create table notes (id bigint primary key, body text, kind text, title text)"


@dataclass
class Served:
    """A running server. `http` sends the key given to `served`."""

    url: str
    services: Services
    http: httpx2.AsyncClient
    sockets: list[Socket] = field(default_factory=list)

    async def get(self, path: str, status: int = 200, **params: Any) -> Any:
        response = await self.http.get(path, params=params)
        return self._checked(response, status)

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        response = await self.http.post(path, json={} if body is None else body)
        return self._checked(response, status)

    @staticmethod
    def _checked(response: httpx2.Response, status: int) -> Any:
        assert response.status_code == status, (response.status_code, response.text)
        kind = response.headers["content-type"]
        assert kind == ("application/json" if status < 400 else "application/problem+json")
        return response.json()

    async def socket(self, **options: Any) -> Socket:
        """Open a WebSocket and read its greeting."""
        options = {"open_timeout": TIMEOUT_S, "compression": None, **options}
        connection = await websockets.connect(self.url.replace("http", "ws") + "/ws", **options)
        socket = Socket(connection)
        self.sockets.append(socket)
        assert (await socket.read())["type"] == "connected"
        return socket


@dataclass
class Socket:
    connection: websockets.ClientConnection

    async def send(self, kind: str, /, **data: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, "data": data, "id": kind}))

    async def read(self) -> dict[str, Any]:
        frame = json.loads(await asyncio.wait_for(self.connection.recv(), TIMEOUT_S))
        assert isinstance(frame, dict)
        return frame

    async def until(self, kind: str) -> dict[str, Any]:
        """Return the data of the next frame of a type, ignoring others."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                frame = await self.read()
                if frame["type"] == kind:
                    return dict(frame["data"])

    async def request(self, kind: str, reply: str, /, **data: Any) -> dict[str, Any]:
        """Send a frame and return the data of its reply, which has the same id."""
        await self.send(kind, **data)
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                frame = await self.read()
                if frame.get("id") == kind:
                    assert frame["type"] == reply, frame
                    return dict(frame["data"])

    async def received(self) -> list[str]:
        """Return the types of all unread frames except heartbeats.

        The reply to a ping comes after them, so none is missed.
        """
        await self.send("ping")
        types = []
        while (frame := await self.read()).get("id") != "ping":
            types.append(str(frame["type"]))
        return [each for each in types if each != "heartbeat"]


@asynccontextmanager
async def served(
    store: Store, *, worker: bool = False, key: str | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """Run a server over a store, and check that it shuts down."""
    server_settings = Settings(
        api_key=None if key is None else SecretStr(key), lease_seconds=20, **settings
    )
    app = create_app(store, server_settings, worker=worker, where="the test's Postgres")
    server = uvicorn.make_server(app, server_settings)
    ready = asyncio.Event()
    server.ready = ready.set
    bound = uvicorn.bind("127.0.0.1", 0)
    task = asyncio.create_task(server.serve([bound]))
    url = uvicorn.address_of(bound)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        await asyncio.wait_for(ready.wait(), TIMEOUT_S)
        async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S, headers=headers) as http:
            running = Served(url, app.state.services, http)
            yield running
            for socket in running.sockets:
                await socket.connection.close()
    finally:
        server.stop()
        await asyncio.wait_for(task, TIMEOUT_S)


@asynccontextmanager
async def notes(store: Store, provider: StandInProvider | None = None) -> AsyncIterator[World]:
    """Create the table `notes`, embedded by the hash embedder or by a provider."""
    embedder = HashEmbedder(8) if provider is None else None
    async with make_world(store, provider, ddl=NOTES, embedder=embedder) as made:
        yield made


def with_provider(provider: StandInProvider) -> dict[str, Any]:
    """Return the settings of a server that uses the stand-in provider."""
    return {
        "openai_api_key": SecretStr(provider.api_key),
        "openai_base_url": provider.base_url,
    }
