"""A network that accepts bytes and delivers nothing loses no work and delays nothing for ever."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.integration.harness import World, connect, execute, overpaid, running, texts
from tests.integration.proxy import FaultProxy, Stall, fault_proxy
from tests.nightly import first_at_once
from tests.provider import StandInProvider

import backline
from backline import errors, loading, search
from backline.postgres import connector, migrate, watch
from backline.postgres.store import Store, open_store
from backline.reconcile import Reconciliation
from backline.verification import verify
from backline.worker import retry

PATIENCE = 0.4
COMMIT = "COMMIT\0"  # without it, "BEGIN ISOLATION LEVEL READ COMMITTED" matches


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten every limit, in seconds."""
    monkeypatch.setattr(watch, "PATIENCE", PATIENCE)
    monkeypatch.setattr(watch.WatchedConnection, "longest", PATIENCE)
    monkeypatch.setattr(connector, "ASK_SECONDS", 1.0)
    monkeypatch.setattr(retry, "SHORTEST_LIMIT", 3.0)


@dataclass
class Stalling:
    """A world whose store is behind a relay, and the store without it."""

    world: World
    proxy: FaultProxy
    direct: Store

    async def heal(self) -> None:
        """Leave the relay out, and wait until the workers that it has cut off are released."""
        self.proxy.cut_all()
        self.world.store = self.direct
        await self.world.wait_until_released()


@pytest.fixture
async def stalling(world: World, database: str, impatient: None) -> AsyncIterator[Stalling]:
    direct = world.store
    async with fault_proxy(database) as proxy:
        store = connector.Connector(proxy.url)
        store._options["connect_timeout"] = 2
        await store.open()
        world.store = Store(store)
        try:
            yield Stalling(world, proxy, direct)
        finally:
            proxy.cut_all()
            await store.aclose()


# --- one connection -------------------------------------------------------------------------------

STATEMENTS = [
    "backline.claim(", "backline.claim_batch(", "backline.complete(", "backline.outstanding(",
    "backline.heartbeat(", "backline.end_finished_batches(", "backline.release_dead_workers(",
    "clock_timestamp()", "backline.run_records(", "backline.finish_run(", "BEGIN", COMMIT,
]  # fmt: skip
SENT_ONCE = {"backline.claim_batch(", "backline.end_finished_batches("}


@pytest.mark.parametrize("delivered", [False, True], ids=["request lost", "response lost"])
@pytest.mark.parametrize("statement", STATEMENTS)
async def test_stalled_connection_is_replaced(
    stalling: Stalling, provider: StandInProvider, statement: str, delivered: bool
) -> None:
    world, proxy = stalling.world, stalling.proxy
    await world.insert(*texts(120))
    provider.behave(delay_s=0.3)
    stall = Stall(statement.encode(), delivered=delivered)
    proxy.stall = stall if statement in SENT_ONCE else None
    async with running(world.fill(lease=3)) as filling:
        await asyncio.to_thread(provider.wait_calls, 1)
        proxy.stall = stall
        report = await filling
    assert (report.embedded, report.failed, report.state) == (120, 0, "completed")
    assert stall.times == 0
    await stalling.heal()
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_connection_that_stalls_while_it_is_configured_is_replaced(
    stalling: Stalling,
) -> None:
    stalling.proxy.stall = Stall(b"set_config('datestyle'", times=1)
    started = time.monotonic()
    await stalling.world.store.now()
    assert stalling.proxy.stall.times == 0
    assert time.monotonic() - started < 8


async def test_stalled_load_fails_and_inserts_nothing(stalling: Stalling, tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    lines = (json.dumps({"id": n, "body": f"text {n} " * 50}) for n in range(20_000))
    file.write_text("\n".join(lines))
    stalling.proxy.stall = Stall(b"text 500 ", times=1)
    with pytest.raises(errors.DatabaseUnavailableError, match="has not answered"):
        await asyncio.wait_for(loading.load(stalling.world.store, file, "notes"), 10)
    assert await stalling.world.sql("select count(*) as n from notes") == [{"n": 0}]


async def test_server_ends_the_transaction_of_a_client_that_is_gone(stalling: Stalling) -> None:
    """Its locks would otherwise last until the server's own keepalives, two hours by default."""
    async with stalling.world.store.connector.transaction() as transaction:
        [settings] = await transaction.fetch(
            "select current_setting('idle_in_transaction_session_timeout') as idle, "
            "current_setting('lock_timeout') as locks"
        )
    assert settings == {"idle": "1min", "locks": "10s"}
    await stalling.world.set_database_default("idle_in_transaction_session_timeout = '3s'")
    async with open_store(stalling.direct.connector.conninfo) as store:
        [row] = await store.connector.fetch(
            "select current_setting('idle_in_transaction_session_timeout') as idle"
        )
    assert row["idle"] == "3s", "the stricter limit of the database stays"


async def test_jobs_are_claimed_again_after_the_response_to_their_claim_was_lost(
    stalling: Stalling,
) -> None:
    world = stalling.world
    await world.insert(*texts(20))
    lease = await world.store.register(world.collection, None, 30)
    received = await world.store.claim(world.collection, lease.worker, 5)
    stalling.proxy.stall = Stall(COMMIT.encode(), delivered=True)
    with pytest.raises(errors.DatabaseUnavailableError):
        await world.store.claim(world.collection, lease.worker, 10)
    leased = [worker for worker in (await world.jobs()).values() if worker is not None]
    assert len(leased) == 15
    again = await world.store.claim(world.collection, lease.worker, 20)
    assert {job.key for job in again} == set(await world.jobs()) - {job.key for job in received}
    await world.store.unregister(lease)
    await stalling.heal()
    await world.fill()
    await world.check_complete()


# --- statements that are slow, on a network that works --------------------------------------------


async def test_long_statement_is_not_ended(stalling: Stalling) -> None:
    row = await stalling.world.store.connector.fetch_one(
        f"select 'done' as result, pg_sleep({PATIENCE * 6})"
    )
    assert row["result"] == "done"


async def test_long_statement_is_not_ended_while_the_server_accepts_no_connection(
    stalling: Stalling,
) -> None:
    """Whether the server works on it is unknown then."""
    connector_ = stalling.world.store.connector
    await connector_.fetch_one("select 1")
    [row] = await stalling.world.sql("select current_database() as name")
    async with running(
        connector_.fetch_one(f"select 1 as one, pg_sleep({PATIENCE * 6})")
    ) as sleeping:
        await stalling.world.sql(f"alter database {row['name']} connection limit 0")
        await stalling.world.sql("create role limited login")
        connector_._options["user"] = "limited"
        assert (await sleeping)["one"] == 1


async def test_statement_that_waits_for_a_lock_is_contention(stalling: Stalling) -> None:
    await stalling.world.set_database_default("lock_timeout = '1s'")
    async with (
        open_store(stalling.direct.connector.conninfo) as store,
        stalling.world.another_user() as user,
    ):
        await execute(user, "lock table notes in access exclusive mode")
        with pytest.raises(errors.ContentionError):
            await store.connector.fetch("select * from notes")


async def test_large_result_is_not_ended(stalling: Stalling) -> None:
    rows = await stalling.world.store.connector.fetch(
        "select repeat('x', 100000) as x, pg_sleep(0.01) from generate_series(1, 200)"
    )
    assert len(rows) == 200


# --- every connection -----------------------------------------------------------------------------


async def test_backfill_continues_after_a_stall_of_every_connection(
    stalling: Stalling, provider: StandInProvider
) -> None:
    world, proxy = stalling.world, stalling.proxy
    await world.insert(*texts(300))
    provider.behave(delay_s=0.05)
    async with running(world.fill(give_up_after=60, lease=2)) as filling:
        await asyncio.to_thread(provider.wait_calls, 3)
        proxy.stalled = True
        await asyncio.sleep(5)
        proxy.cut_all()
        proxy.stalled = False
        report = await filling
    assert (report.failed, report.state) == (0, "completed")
    assert report.coverage.complete
    await stalling.heal()
    await world.check_complete()
    assert overpaid(provider) == {}


@pytest.mark.parametrize(
    "statement",
    first_at_once(["backline.complete(", "backline.claim(", "backline.heartbeat(", COMMIT]),
)
async def test_backfill_gives_up_on_a_stall_that_does_not_end(
    stalling: Stalling, provider: StandInProvider, statement: str
) -> None:
    world, proxy = stalling.world, stalling.proxy
    await world.insert(*texts(300))
    provider.behave(delay_s=0.3)
    async with running(world.fill(give_up_after=3, grace=1, lease=3)) as filling:
        await asyncio.to_thread(provider.wait_calls, 3)
        proxy.stall = Stall(statement.encode(), everywhere=True)
        started = time.monotonic()
        with pytest.raises(errors.DatabaseUnavailableError):
            await asyncio.wait_for(filling, 45)
        assert time.monotonic() - started < 40
    await stalling.heal()
    await world.check_consistent()
    embedded = set(provider.texts_embedded)
    assert (await world.fill()).coverage.complete
    await world.check_complete()
    assert overpaid(provider).keys() <= embedded


async def test_stall_during_the_report_ends_the_backfill(
    stalling: Stalling, provider: StandInProvider
) -> None:
    world = stalling.world
    await world.insert(*texts(30))
    stalling.proxy.stall = Stall(b"backline.failures f", everywhere=True)
    with pytest.raises(errors.DatabaseUnavailableError):
        await asyncio.wait_for(world.fill(give_up_after=3), 45)
    await stalling.heal()
    await world.check_complete()


@pytest.mark.parametrize("grace", [0.5, 2])
async def test_sync_stops_within_its_grace_period_during_a_stall(
    stalling: Stalling, provider: StandInProvider, grace: float
) -> None:
    world, proxy = stalling.world, stalling.proxy
    async with stopping_within(world, grace + 8, grace=grace):
        await world.insert(*texts(50))
        await asyncio.to_thread(provider.wait_calls, 1)
        proxy.stalled = True
        await world.sql("update notes set body = body || ' edited'")
        await asyncio.sleep(2)
    await stalling.heal()
    await world.check_consistent()


@asynccontextmanager
async def stopping_within(world: World, seconds: float, **options: Any) -> AsyncIterator[None]:
    """Run a sync until the end of the block, and require that it ends in so many seconds."""
    started = 0.0
    async with world.syncing(**options):
        yield
        started = time.monotonic()
    assert time.monotonic() - started < seconds


# --- cancelled tasks ------------------------------------------------------------------------------


async def cancelled(call: Callable[[], Any], after: float) -> float:
    """Cancel a call after some seconds, and return how long it took to end."""
    task = asyncio.ensure_future(call())
    await asyncio.sleep(after)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - started


@pytest.mark.parametrize("everywhere", [False, True])
async def test_cancelled_statement_ends_soon_on_a_stalled_network(
    stalling: Stalling, everywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 60)
    store = stalling.world.store
    await store.now()
    stalling.proxy.stall = Stall(b"'needle'", everywhere=everywhere)
    seconds = await cancelled(lambda: store.connector.fetch("select 'needle'"), after=0.3)
    assert seconds < watch.CANCEL_SECONDS * 2 + 1


async def test_cancelled_transaction_rolls_back_soon_on_a_stalled_network(
    stalling: Stalling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 60)

    async def work() -> None:
        async with stalling.world.store.connector.transaction() as transaction:
            await transaction.execute("select 1")
            stalling.proxy.stalled = True
            await asyncio.sleep(60)

    assert await cancelled(work, after=0.5) < watch.LEAVING_SECONDS + 1


async def test_cancelled_statement_is_cancelled_on_the_server(stalling: Stalling) -> None:
    store = stalling.world.store
    await cancelled(lambda: store.connector.fetch("select pg_sleep(60)"), after=0.3)
    assert await stalling.world.sql(
        "select query from pg_stat_activity where query like 'select pg_sleep%%' "
        "and state = 'active' and datname = current_database()"
    ) == []  # fmt: skip


# --- locks that any role may take -----------------------------------------------------------------


@asynccontextmanager
async def every_advisory_lock(world: World, database: str) -> AsyncIterator[None]:
    """Hold each advisory lock of a collection as a role without any privilege."""
    await world.sql("create role stranger login")
    async with await psycopg.AsyncConnection.connect(
        psycopg.conninfo.make_conninfo(database, user="stranger"), autocommit=True
    ) as stranger:
        for space in (b"back", b"bacl", b"keyw"):
            number = int.from_bytes(space)
            await stranger.execute(
                "select pg_advisory_lock((%s::bigint << 31) | n), pg_advisory_lock(%s, n), "
                "pg_advisory_lock(n), pg_advisory_lock(%s + n) from generate_series(0, 300) n",
                [number, number, number],
            )
        yield
    await world.sql("drop role stranger")


async def test_advisory_locks_of_a_role_without_privileges_delay_nothing(
    world: World, provider: StandInProvider, database: str
) -> None:
    await world.insert(*texts(60))
    async with every_advisory_lock(world, database):
        started = time.monotonic()
        report = await world.fill()
        assert (report.embedded, report.state) == (60, "completed")
        async with world.syncing():
            await world.sql("update notes set body = body || ' edited'")
            await world.wait_until_idle()
        lease = await world.store.register(world.collection, None, lease=1)
        registered = await world.sql("select has_session from backline.workers")
        assert registered == [{"has_session": False}]
        await world.store.close_session(lease)
        await world.wait_until_released()
        assert time.monotonic() - started < 20
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_advisory_locks_delay_no_other_command(world: World, database: str) -> None:
    await world.insert(*texts(60))
    await world.fill()
    await world.bypassing_triggers("update notes set body = 'text 1' where id = 2")
    async with every_advisory_lock(world, database), asyncio.timeout(20):
        built = await search.ensure_index(world.store, world.collection, rebuild=True, smallest=1)
        assert built.vectors.state == "built"
        query = search.Query("text 1", mode="hybrid", limit=1)
        [hit] = await search.search(world.store, world.collection, world.embedder, query)
        assert hit.key == "1"
        result = await Reconciliation(world.store, world.collection).run()
        assert result.sound
        assert result.found["text that changed unnoticed"] == 1
        assert not (await verify(world.store, world.collection)).passed
        await world.store.drop_collection(world.collection, drop_column=True)
        assert await migrate.apply(world.store.connector) == []
    assert await world.sql("select from backline.collections") == []


def test_no_advisory_lock_is_waited_for() -> None:
    """Any role can take any of them, and keep it."""
    package = Path(backline.__file__).parent
    sources = [*package.rglob("*.py"), *package.rglob("*.sql")]
    taken = {
        call
        for source in sources
        for call in re.findall(r"\bpg_(?:try_)?advisory_\w+", source.read_text())
    }
    assert taken == {"pg_try_advisory_lock", "pg_try_advisory_xact_lock"}


async def test_a_lock_does_not_keep_a_dead_worker_alive_beyond_its_lease(
    world: World, database: str
) -> None:
    await world.insert(*texts(5))
    dead = await world.store.register(world.collection, None, lease=1.5)
    assert len(await world.store.claim(world.collection, dead.worker, 5)) == 5
    await world.store.close_session(dead)
    async with await connect(database) as stranger:
        await execute(stranger, "select pg_advisory_lock(backline.worker_lock(%s))", dead.worker)
        await world.wait_until_released()
        assert set((await world.jobs()).values()) == {None}
