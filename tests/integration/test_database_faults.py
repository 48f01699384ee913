"""No work is lost when Postgres rejects writes, times out or drops connections."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.harness import (
    World,
    execute,
    not_stored,
    overpaid,
    running,
    texts,
)
from tests.integration.proxy import fault_proxy
from tests.provider import StandInProvider

from backline import errors, loading
from backline.postgres.store import open_store

# --- rejected writes ------------------------------------------------------------------------------


async def test_full_disk_interrupts_the_run_without_loss(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(100))
    await world.run_on_write(
        "if new.id = 50 then raise exception using errcode = '53100', "
        "message = 'could not extend file: No space left on device'; end if;",
    )
    report = await world.fill()
    assert report.state == "interrupted"
    assert "No space left on device" in (report.stopped_by or "")
    assert await world.failures() == {}
    await world.check_consistent()
    assert set((await world.jobs()).values()) <= {None}
    in_flight = await not_stored(world, provider.texts_embedded)
    await world.remove_write_trigger()
    report = await world.fill()
    assert report.coverage.complete
    await world.check_complete()
    assert overpaid(provider).keys() <= in_flight


async def test_full_disk_interrupts_the_run_when_another_task_ignores_its_cancellation(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Python 3.12, wait_for loses a cancellation that arrives as the wait succeeds."""
    await world.insert(*texts(100))
    complete, second_write, calls = world.store.complete, asyncio.Event(), 0

    async def first_fails(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.wait_for(second_write.wait(), 20)
            raise errors.DatabaseFullError("No space left on device.")
        second_write.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(20)
        return await complete(*args, **options)

    monkeypatch.setattr(world.store, "complete", first_fails)
    report = await world.fill()
    assert "No space left on device" in (report.stopped_by or "")
    monkeypatch.undo()
    assert (await world.fill()).coverage.complete
    await world.check_complete()


@pytest.mark.parametrize("kind", ["trigger", "constraint"])
async def test_row_rejected_by_postgres_fails_alone(
    world: World, provider: StandInProvider, kind: str
) -> None:
    await world.insert(*texts(100))
    if kind == "trigger":
        await world.run_on_write(
            "if new.id = 50 then raise exception 'row % is under review', new.id; end if;"
        )
        message = "row 50 is under review"
    else:
        await world.sql("alter table notes add constraint sane check (id <> 50) not valid")
        message = "sane"
    report = await world.fill()
    assert (report.embedded, report.failed, report.state) == (99, 1, "completed")
    assert message in (await world.failures())["50"]
    await world.check_complete(dead=["50"])
    assert overpaid(provider) == {}
    if kind == "trigger":
        await world.remove_write_trigger()
    else:
        await world.sql("alter table notes drop constraint sane")
    await world.store.retry_failures(world.collection, None)
    await world.fill()
    await world.check_complete()


async def test_table_that_rejects_every_row_interrupts_the_run(world: World) -> None:
    await world.insert(*texts(200))
    await world.run_on_write("raise exception 'the archive is read-only';")
    report = await world.fill()
    assert report.state == "interrupted"
    assert "the archive is read-only" in (report.stopped_by or "")
    assert len(await world.failures()) < 60
    await world.check_consistent()
    await world.remove_write_trigger()
    await world.store.retry_failures(world.collection, None)
    await world.fill()
    await world.check_complete()


@pytest.mark.parametrize("state", ["40P01", "40001", "55P03"])
async def test_transaction_conflict_is_retried(
    world: World, provider: StandInProvider, state: str
) -> None:
    """The first three writes fail with a deadlock, a serialization failure or a lock timeout."""
    await world.insert(*texts(30))
    await world.sql("create sequence attempts")
    await world.run_on_write(
        "if nextval('attempts') <= 3 then "
        f"raise exception using errcode = '{state}', message = 'not now'; end if;",
    )
    report = await world.fill()
    assert (report.embedded, report.failed) == (30, 0)
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_deadlock_with_a_user_loses_no_work_of_either(world: World) -> None:
    """The user locks the company and waits for a row; Backline locks the row, then the company."""
    await world.sql("create table companies (id int primary key, n int)")
    await world.sql("insert into companies values (1, 0)")
    await world.insert(*texts(20))
    await world.run_on_write("update companies set n = n + 1 where id = 1;")
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


async def test_statement_timeout_splits_the_write(
    world: World, provider: StandInProvider, database: str
) -> None:
    await world.insert(*texts(100))
    await world.run_on_write("perform pg_sleep(0.01);")
    await world.set_database_default("statement_timeout = '400ms'")
    async with open_store(database) as world.store:
        report = await world.fill(batch_size=100)
        assert (report.embedded, report.failed) == (100, 0)
        await world.check_complete()
    assert overpaid(provider) == {}


async def test_row_slower_than_the_statement_timeout_interrupts_the_run(
    world: World, database: str
) -> None:
    await world.insert(*texts(5))
    await world.run_on_write("perform pg_sleep(10);")
    await world.set_database_default("statement_timeout = '300ms'")
    async with open_store(database) as world.store:
        report = await world.fill()
        assert report.state == "interrupted"
        assert "statement timeout" in (report.stopped_by or "")
        assert await world.failures() == {}


async def test_backfill_waits_for_a_locked_table(world: World, provider: StandInProvider) -> None:
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


async def test_collection_dropped_during_a_run_is_reported(
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


async def test_model_change_during_a_run_stores_no_vector_of_the_old_model(
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


# --- dropped connections --------------------------------------------------------------------------


async def test_pool_replaces_connections_cut_while_idle(database: str) -> None:
    async with fault_proxy(database) as proxy, open_store(proxy.url) as store:
        await asyncio.gather(*(store.now() for _ in range(4)))
        proxy.cut_all()
        await asyncio.sleep(0.2)  # until the kernel reports the closed sockets
        for _ in range(4):
            await store.now()


@pytest.mark.parametrize("after", [500, 1500, 4000, 9000, 20_000])
async def test_connections_cut_during_a_write_lose_nothing(
    world: World, provider: StandInProvider, database: str, after: int
) -> None:
    """The proxy cuts four connections after `after` bytes, anywhere in the protocol."""
    await world.insert(*texts(300))
    direct = world.store
    async with fault_proxy(database) as proxy, open_store(proxy.url) as world.store:
        async with running(world.fill()) as filling:
            with provider.held():
                await asyncio.to_thread(provider.wait_in_flight)
                proxy.after, proxy.cuts = after, 4
                proxy.cut_all()  # the new connections are the ones to be cut
            report = await filling
        assert (report.embedded, report.failed, report.state) == (300, 0, "completed"), (
            report.stopped_by
        )
        assert proxy.cuts < 4
    world.store = direct  # the proxy may still cut a connection of the checks
    await world.wait_until_released()
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_repeatedly_terminated_backends_lose_nothing(
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
    assert (report.failed, report.state) == (0, "completed"), report.stopped_by
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_transaction_pooler_needs_no_session_state(
    world: World, provider: StandInProvider, database: str
) -> None:
    """Behind port 6543 there are no session locks and no LISTEN; a dead worker's leases expire."""
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


async def test_interrupted_load_inserts_nothing(
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
