"""A sync without work asks the database for little, and still finds whatever is committed."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from tests.integration.harness import World, connect, eventually, execute, make_world
from tests.integration.proxy import fault_proxy

from backline import sync as sync_module
from backline.embedders.hash import HashEmbedder
from backline.postgres.store import open_store
from backline.problems import watch_problems
from backline.store import JobStore
from backline.sync import ChangePoller, Opened, Sync, TargetSync
from backline.types import Problem
from backline.worker import lease
from backline.worker.tasks import beside

# Claims without a change, and with them every find that is not the poller's, come after an hour.
HOUR = 3600
REST_SECONDS = 0.8


@pytest.fixture(autouse=True)
def short_busy_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the long interval between two polls begin 0.1 s after the last change."""
    monkeypatch.setattr(sync_module, "BUSY_FOR_SECONDS", 0.1)


@dataclass
class Recorder:
    """Counts what a client sends to the server."""

    writer: asyncio.StreamWriter
    sent: Counter[str]

    def write(self, data: bytes) -> None:
        self.sent.update(each.decode() for each in STATEMENTS.findall(data))
        self.writer.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writer, name)


STATEMENTS = re.compile(rb"(?:P\0\0..\0|Q\0\0\0.)([^\0]+)\0", re.DOTALL)
SNAPSHOT = "select pg_current_snapshot()::text as snapshot"


@asynccontextmanager
async def recorded(world: World) -> AsyncIterator[tuple[World, Counter[str]]]:
    """Yield the world over a relay, and the statements that its store sends."""
    sent: Counter[str] = Counter()
    async with fault_proxy(world.store.connector.conninfo) as proxy:
        connect_to_server = proxy.connect

        async def connect_recorder() -> Any:
            reader, writer = await connect_to_server()
            return reader, Recorder(writer, sent)

        proxy.connect = connect_recorder
        async with open_store(proxy.url) as store:
            yield replace(world, store=store), sent


async def test_idle_sync_sends_a_short_query_at_each_poll(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command does. Maintenance comes after 10 s, and would fall into some runs."""
    monkeypatch.setattr(lease, "MAINTENANCE_TICKS", 1000)

    @asynccontextmanager
    async def open_for(_: Any) -> AsyncIterator[Opened]:
        yield Opened(world.embedder, world.limiter, replace(world.options, poll=HOUR, lease=60))

    async with recorded(world) as (watched, sent):
        sync = TargetSync(watched.store, "notes", open_for)
        async with beside(sync.run()):
            await eventually(lambda: is_quiet(sent), "the sync to come to rest")
            before = Counter(sent)
            [written] = await world.sql(NEXT_TRANSACTION)
            await asyncio.sleep(2.5)
            during = sent - before
            assert 4 <= during.pop(SNAPSHOT) <= 13
            assert during == {}
            assert await world.sql(NEXT_TRANSACTION) == [written]
            sync.stop()


async def is_quiet(sent: Counter[str]) -> bool:
    before = Counter(sent)
    await asyncio.sleep(REST_SECONDS)
    return set(sent - before) == {SNAPSHOT}


NEXT_TRANSACTION = "select pg_snapshot_xmax(pg_current_snapshot()) as xid"
EDIT = "insert into notes (id, body) values (3, 'three')"


@asynccontextmanager
async def at_rest(world: World, **options: Any) -> AsyncIterator[Sync]:
    """Run a sync that has embedded two rows, and whose polls have found nothing since."""
    await world.insert("one", "two")
    async with world.syncing(poll=HOUR, **options) as sync:
        await eventually(lambda: sync.processed == 2, "the rows to be embedded")
        await asyncio.sleep(REST_SECONDS)
        yield sync
    await world.check_complete()


async def test_edit_after_a_silence_is_embedded(world: World) -> None:
    async with at_rest(world) as sync:
        await world.sql(EDIT)
        await eventually(lambda: sync.processed == 3, "the edit to be embedded")


@pytest.mark.parametrize(
    "statements",
    [
        ["begin", EDIT, "commit"],
        ["begin", "savepoint s", EDIT, "release s", "commit"],
        ["begin", "savepoint s", EDIT, "rollback to s", EDIT, "commit"],
        ["begin isolation level serializable", EDIT, "commit"],
        ["begin", EDIT, "prepare transaction 'edit'", "commit prepared 'edit'"],
    ],
)
async def test_edit_of_a_transaction_that_was_open_all_along_is_embedded(
    world: World, statements: list[str]
) -> None:
    async with await connect(world.store.connector.conninfo) as user:
        for statement in statements[:-1]:
            await execute(user, statement)
        async with at_rest(world) as sync:
            await execute(user, statements[-1])
            await eventually(lambda: sync.processed == 3, "the edit to be embedded")


async def test_job_that_becomes_due_without_a_commit_is_claimed(world: World) -> None:
    await world.insert("one", "two")
    await world.apply_changes()
    await world.sql(
        "update backline.jobs set not_before = now() + case key when '1' then interval '2 s' "
        "else interval '1 hour' end"
    )
    async with world.syncing(poll=HOUR, lease=600) as sync:
        await asyncio.sleep(REST_SECONDS)
        assert sync.processed == 0
        await eventually(lambda: sync.processed == 1, "the first row to be embedded")
        assert list(await world.open_jobs()) == ["2"]


async def test_due_job_behind_a_hundred_that_wait_is_claimed(world: World) -> None:
    await world.insert(*[f"text {n}" for n in range(151)])
    await world.apply_changes()
    await world.sql(
        "update backline.jobs set enqueued_at = now() - make_interval(secs => 200 - key::int), "
        "not_before = now() + case key when '151' then interval '1 s' else interval '1 hour' end"
    )
    async with world.syncing(poll=HOUR) as sync:
        await eventually(lambda: sync.processed == 1, "the last row to be embedded")


async def test_each_collection_of_a_poller_gets_its_edits(world: World) -> None:
    """As in the server, which follows every collection with one poller."""
    poller = ChangePoller(world.store)
    async with AsyncExitStack() as stack:
        followed: list[tuple[World, Sync]] = []
        for name in ("papers", "songs"):
            ddl = f"create table {name} (id int primary key, body text)"
            each = await stack.enter_async_context(
                make_world(world.store, ddl=ddl, embedder=HashEmbedder(8), table=name)
            )
            sync = Sync(
                each.store, each.collection, each.embedder, each.limiter, each.options, poller
            )
            await stack.enter_async_context(beside(sync.run()))
            followed.append((each, sync))
        await stack.enter_async_context(beside(poller.run()))
        await asyncio.sleep(REST_SECONDS)
        for each, sync in followed:
            await each.sql(f"insert into {each.collection.name} values (1, 'one')")
            await eventually(partial(has_processed, sync, 1), "the edit to be embedded")


def has_processed(sync: Sync, rows: int) -> bool:
    return sync.processed == rows


async def test_idle_worker_keeps_its_lease(world: World) -> None:
    async with world.syncing(poll=HOUR, lease=9):
        [before] = await eventually_rows(world, "select id, expires_at from backline.workers")
        await eventually_rows(
            world, "select from backline.workers where id = %s and expires_at > %s",
            before["id"], before["expires_at"] + timedelta(seconds=1),
        )  # fmt: skip


async def test_idle_worker_that_loses_its_session_registers_again(world: World) -> None:
    """Long before its next heartbeat."""
    async with world.syncing(poll=HOUR, lease=600):
        [before] = await eventually_rows(world, "select id from backline.workers")
        await world.sql(
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
        )
        await eventually(lambda: another_worker(world, before["id"]), "another registration")


async def another_worker(world: World, old: int) -> bool:
    return await world.sql("select from backline.workers where id > %s", old) != []


async def eventually_rows(world: World, statement: str, *values: Any) -> list[dict[str, Any]]:
    """Return the rows of a query, once there are any."""
    await eventually(lambda: world.sql(statement, *values), "a row")
    return await world.sql(statement, *values)


@pytest.mark.parametrize(("seconds", "seldom"), [(0.0, False), (0.1, True)])
async def test_slow_check_of_the_rows_is_repeated_more_seldom(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float, seldom: bool
) -> None:
    done: Counter[str] = Counter()

    async def follow(_: Any) -> bool:
        done["follow"] += 1
        return True

    async def problems(_: Any) -> tuple[Problem, ...]:
        done["problems"] += 1
        await asyncio.sleep(seconds)
        return ()

    store: JobStore = world.store
    monkeypatch.setattr(store, "follow", follow)
    monkeypatch.setattr(store, "problems", problems)
    async with beside(watch_problems(store, world.collection, every=0.2)):
        await eventually(lambda: done["follow"] == 7, "seven rounds")
    assert done["problems"] <= 4 if seldom else done["problems"] >= 6
