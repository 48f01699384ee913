"""A real server on a real socket, in the test's own event loop, and clients that speak to it."""

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

# How long anything may take on a busy machine; nobody waits longer than it takes.
PATIENCE_S = 60.0

NOTES = "create table notes (id bigint primary key, body text, kind text, title text)"


@dataclass
class Served:
    """A running server. `http` sends no key unless one was given to `served`."""

    url: str
    services: Services
    http: httpx2.AsyncClient
    sockets: list[Socket] = field(default_factory=list)

    async def get(self, path: str, status: int = 200, **params: Any) -> Any:
        answer = await self.http.get(path, params=params)
        return self._checked(answer, status)

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = await self.http.post(path, json={} if body is None else body)
        return self._checked(answer, status)

    @staticmethod
    def _checked(answer: httpx2.Response, status: int) -> Any:
        assert answer.status_code == status, (answer.status_code, answer.text)
        kind = answer.headers["content-type"]
        assert kind == ("application/json" if status < 400 else "application/problem+json")
        return answer.json()

    async def socket(self, **options: Any) -> Socket:
        """A WebSocket that has been greeted."""
        options = {"open_timeout": PATIENCE_S, "compression": None, **options}
        connection = await websockets.connect(self.url.replace("http", "ws") + "/ws", **options)
        made = Socket(connection)
        self.sockets.append(made)
        assert (await made.read())["type"] == "connected"
        return made


@dataclass
class Socket:
    connection: websockets.ClientConnection

    async def say(self, kind: str, /, **data: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, "data": data, "id": kind}))

    async def read(self) -> dict[str, Any]:
        found = json.loads(await asyncio.wait_for(self.connection.recv(), PATIENCE_S))
        assert isinstance(found, dict)
        return found

    async def until(self, kind: str) -> dict[str, Any]:
        """The data of the next frame of a type; the others are let pass."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await self.read()
                if found["type"] == kind:
                    return dict(found["data"])

    async def ask(self, kind: str, answer: str, /, **data: Any) -> dict[str, Any]:
        """Say something and wait for the answer, which carries the id of the question."""
        await self.say(kind, **data)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await self.read()
                if found.get("id") == kind:
                    assert found["type"] == answer, found
                    return dict(found["data"])

    async def told(self) -> list[str]:
        """The types of all that was sent to it until now, heartbeats aside.

        The answer to a ping waits for its turn behind them, so that nothing is missed.
        """
        await self.say("ping")
        types = []
        while (found := await self.read()).get("id") != "ping":
            types.append(str(found["type"]))
        return [each for each in types if each != "heartbeat"]


@asynccontextmanager
async def served(
    store: Store, *, worker: bool = False, key: str | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """A server over a store; it must end well."""
    given = Settings(api_key=None if key is None else SecretStr(key), lease_seconds=20, **settings)
    app = create_app(store, given, worker=worker, where="the test's Postgres")
    server = uvicorn.make_server(app)
    ready = asyncio.Event()
    server.ready = ready.set
    bound = uvicorn.bind("127.0.0.1", 0)
    task = asyncio.create_task(server.serve([bound]))
    url = uvicorn.address_of(bound)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S, headers=headers) as http:
            made = Served(url, app.state.services, http)
            yield made
            for socket in made.sockets:
                await socket.connection.close()
    finally:
        server.stop()
        await asyncio.wait_for(task, PATIENCE_S)


@asynccontextmanager
async def notes(store: Store, provider: StandInProvider | None = None) -> AsyncIterator[World]:
    """The table `notes`, whose text is its body, with hash vectors or those of a provider."""
    embedder = HashEmbedder(8) if provider is None else None
    async with make_world(store, provider, ddl=NOTES, embedder=embedder) as made:
        yield made


def with_provider(provider: StandInProvider) -> dict[str, Any]:
    """The settings by which a server reaches the stand-in."""
    return {
        "openai_api_key": SecretStr(provider.api_key),
        "openai_base_url": provider.base_url,
    }
