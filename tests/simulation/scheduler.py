"""Run one statement at a time, and tell a statement that waits for a lock from one that runs.

A statement that waits for a transaction of another actor keeps its actor busy, and the scheduler
goes on with the others. Postgres grants locks in the order of the requests, so the outcome depends
on the order of the steps alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from backline.postgres.connector import Connector
from tests.integration.harness import eventually

# A statement that runs this long without waiting for a lock of another actor hangs.
LONGEST_SECONDS: Final = 60.0
QUICK_SECONDS: Final = 0.001


async def connect(url: str, name: str) -> AsyncConnection[DictRow]:
    """Connect in autocommit mode, with the name of the actor."""
    return await AsyncConnection.connect(
        url, autocommit=True, row_factory=dict_row, prepare_threshold=None, application_name=name
    )


class OneConnection(Connector):
    """A connector whose pool is one connection.

    A transaction that is begun on the connection stays open over several verbs.
    """

    def __init__(self, url: str, connection: AsyncConnection[DictRow]) -> None:
        super().__init__(url)
        self.connection = connection
        self.has_sessions = True
        self._pool = _Lender(connection)  # type: ignore[assignment]


class _Lender:
    def __init__(self, connection: AsyncConnection[DictRow]) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        yield self._connection


@dataclass(eq=False)
class Actor:
    """A session of the database that runs at most one statement at a time.

    Attributes:
        gives_up: its present statement has a lock timeout, and ends without another step.
        notes: what it did since it was last asked, for the report.
        violations: what it found to be wrong.
    """

    name: str
    url: str
    connection: AsyncConnection[DictRow]
    task: asyncio.Task[None] | None = None
    gives_up: bool = False
    notes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.connection.info.backend_pid

    @property
    def busy(self) -> bool:
        """Whether a statement of the actor waits for a lock."""
        return self.task is not None

    @property
    def in_transaction(self) -> bool:
        status = self.connection.info.transaction_status
        return status in (
            psycopg.pq.TransactionStatus.INTRANS,
            psycopg.pq.TransactionStatus.INERROR,
        )


@dataclass
class Wait:
    """One actor waits for locks of others."""

    actor: Actor
    blockers: set[int]


@dataclass
class Scheduler:
    """Starts the statements of the actors, and observes them over `monitor`."""

    monitor: AsyncConnection[DictRow]
    actors: list[Actor] = field(default_factory=list)

    async def run(self, actor: Actor, work: Coroutine[Any, Any, None]) -> list[Wait]:
        """Start the work of an actor. Returns once every statement is done or waits."""
        assert not actor.busy
        actor.task = asyncio.create_task(work)
        return await self.settle()

    async def settle(self) -> list[Wait]:
        """Wait until each actor is done, or waits for an actor that is not running."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while tasks := [actor.task for actor in self.actors if actor.task is not None]:
            done, _ = await asyncio.wait(
                tasks, timeout=QUICK_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                self._collect()
                continue
            waits = await self._waits()
            if not any(_ends_itself(wait, waits) for wait in waits):
                return waits
            assert time.monotonic() < deadline, await self._hanging(waits)
        return []

    def _collect(self) -> None:
        for actor in self.actors:
            if actor.task is not None and actor.task.done():
                task, actor.task = actor.task, None
                task.result()

    async def _waits(self) -> list[Wait]:
        waits = []
        for actor in self.actors:
            if actor.task is None:
                continue
            [row] = await self._fetch("select pg_blocking_pids(%s) as pids", [actor.pid])
            waits.append(Wait(actor, set(row["pids"])))
        return waits

    async def end(self, *connections: AsyncConnection[DictRow]) -> None:
        """End sessions as a crash of their client does, and wait until Postgres has noticed."""
        pids = [each.info.backend_pid for each in connections if not each.closed]
        await self._fetch(
            "select pg_terminate_backend(u.pid) from unnest(%s::int[]) u(pid)", [pids]
        )
        await eventually(partial(self._ended, pids), "sessions to end", every=QUICK_SECONDS)
        # A statement that waits on a closed socket would never end.
        tasks = [a.task for a in self.actors if a.task is not None and a.connection in connections]
        if tasks:
            await asyncio.wait(tasks, timeout=LONGEST_SECONDS)
        for each in connections:
            await each.close()

    async def _ended(self, pids: list[int]) -> bool:
        return not await self._fetch("select from pg_stat_activity where pid = any (%s)", [pids])

    async def _hanging(self, waits: list[Wait]) -> str:
        pids = [wait.actor.pid for wait in waits]
        states = await self._fetch(
            "select application_name, query, wait_event from pg_stat_activity where pid = any (%s)",
            [pids],
        )
        return f"hangs: {states}, waits for {[wait.blockers for wait in waits]}"

    async def _fetch(self, statement: str, values: list[Any]) -> list[DictRow]:
        return await (await self.monitor.execute(statement, values)).fetchall()


def _ends_itself(wait: Wait, waits: list[Wait]) -> bool:
    """Return whether a wait ends without another step: it has begun to run, or is a deadlock."""
    if wait.actor.gives_up:
        return True
    blockers = {each.actor.pid: each.blockers for each in waits}
    seen: set[int] = set()
    reached = [wait.actor.pid]
    while reached:
        pid = reached.pop()
        if pid in seen:
            continue
        seen.add(pid)
        if pid in blockers and not blockers[pid]:
            return True
        reached += blockers.get(pid, ())
        if wait.actor.pid in blockers.get(pid, ()):
            return True
    return False
