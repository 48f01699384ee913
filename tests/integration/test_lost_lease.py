"""A worker that has lost its lease sends no text that another worker has taken over."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.harness import World, eventually, overpaid, running, texts
from tests.integration.processes import read_line, read_report, worker_process
from tests.integration.proxy import fault_proxy
from tests.provider import StandInProvider

from backline.postgres.store import open_store
from backline.worker.backlog import PendingText
from backline.worker.clock import elapsed
from backline.worker.lease import WorkerLease
from backline.worker.options import WorkerOptions
from backline.worker.send import HeldRows
from backline.worker.stats import WorkerStats
from backline.worker.writer import Write

LEASE = 1.0
SHORT = WorkerOptions(lease=LEASE)


async def wait_until_expired(world: World) -> None:
    async def expired() -> bool:
        return bool(await world.sql("select 1 from backline.workers where expires_at < now()"))

    await eventually(expired, "the lease to expire")


async def test_rows_that_move_to_a_new_lease_during_the_check_are_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the worker drops rows that stay leased to it, and nothing claims them again."""
    await world.insert("one", "two")
    lease = WorkerLease(
        world.store, world.collection, None, SHORT, WorkerStats(), trims_cache=False
    )
    await lease.register()
    jobs = await world.store.claim(world.collection, lease.worker, 10)
    batch = [PendingText(job.content_hash or b"", job.content, jobs=[job]) for job in jobs]
    held = world.store.held
    renewing: list[asyncio.Task[None]] = []

    async def held_during_a_renewal(*args: Any) -> list[bool]:
        if not renewing:
            await world.sql("delete from backline.workers where id = %s", lease.worker)
            renewing.append(asyncio.create_task(lease._renew()))
            await asyncio.sleep(0.2)
        return await held(*args)

    monkeypatch.setattr(world.store, "held", held_during_a_renewal)
    dropped: list[Write] = []
    rows = HeldRows(world.store, world.collection, lease, SHORT, on_dropped=dropped.extend)
    assert await rows.select(batch) == batch
    assert dropped == []
    await asyncio.gather(*renewing)
    assert set((await world.jobs()).values()) == {lease.worker}
    await lease.unregister()


@pytest.mark.parametrize("port", [5432, 6543])
@pytest.mark.parametrize("rows", ["queued", "scanned"])
async def test_stopped_worker_sends_nothing_that_another_has_stored(
    world: World, provider: StandInProvider, database: str, port: int, rows: str
) -> None:
    """Behind port 6543 the worker has no session. Its texts in flight are paid for twice.

    It is also stopped within the transaction of a claim, which the server ends.
    """
    await world.insert(*texts(300))
    if rows == "scanned":
        await world.sql("delete from backline.changes")
        await world.store.recount(world.collection.id)
    async with (
        fault_proxy(database, port=port) as proxy,
        worker_process(
            world, provider, "backfill", "--lease", str(LEASE), url=proxy.url
        ) as stopped,
    ):
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight, 2)
            stopped.send_signal(signal.SIGSTOP)
        await eventually(lambda: provider.in_flight == 0, "the held calls to end")
        in_flight = set(provider.texts_embedded)
        await wait_until_expired(world)
        assert (await world.fill()).coverage.complete
        calls = len(provider.calls)
        stopped.send_signal(signal.SIGCONT)
        assert await read_line(stopped) == "ready"
        report = await read_report(stopped)
    assert report["state"] == "completed"
    assert len(provider.calls) == calls
    assert 0 < len(overpaid(provider)) <= len(in_flight) < 100
    await world.check_complete()


@pytest.mark.parametrize("port", [5432, 6543])
async def test_worker_cut_off_past_its_lease_sends_nothing_until_it_has_asked(
    world: World, provider: StandInProvider, database: str, port: int
) -> None:
    await world.insert(*texts(200))
    async with (
        fault_proxy(database, port=port) as proxy,
        open_store(proxy.url) as store,
        running(replace(world, store=store).fill(lease=LEASE)) as cut_off,
    ):
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight, 2)
            proxy.after, proxy.cuts = 0, 1_000_000
            proxy.cut_all()
            await asyncio.sleep(2 * LEASE)
        await eventually(lambda: provider.in_flight == 0, "the held calls to end")
        await asyncio.sleep(0.5)
        in_flight = set(provider.texts_embedded)
        assert len(in_flight) == 40, "texts are sent during the outage"
        assert (await world.fill()).coverage.complete
        calls = len(provider.calls)
        proxy.cuts = 0
        report = await cut_off
    assert report.state == "completed"
    assert len(provider.calls) == calls
    assert overpaid(provider).keys() <= in_flight
    await world.wait_until_released()
    await world.check_complete()


async def test_worker_sends_its_backlog_after_a_lease_that_nothing_was_lost_of(
    world: World, provider: StandInProvider
) -> None:
    """A new lease takes over the rows of the old one, so they need not be claimed again."""
    await world.insert(*texts(200))
    async with running(world.fill()) as filling:
        with provider.held():
            await asyncio.to_thread(provider.wait_in_flight, 2)
            [before] = await world.sql("select id from backline.workers")
            await terminate_sessions(world)

            async def replaced() -> bool:
                return await world.sql("select id from backline.workers") not in ([], [before])

            await eventually(replaced, "a new lease")
        report = await filling
    assert report.state == "completed"
    assert overpaid(provider) == {}
    await world.check_complete()


@asynccontextmanager
async def registered(world: World) -> AsyncIterator[WorkerLease]:
    """Register a worker that holds every row and sends no heartbeat by itself."""
    lease = WorkerLease(
        world.store, world.collection, None, SHORT, WorkerStats(), trims_cache=False
    )
    await lease.register()
    await world.store.claim(world.collection, lease.worker, 100)
    yield lease
    await lease.unregister()


async def test_lease_is_checked_once_half_of_it_has_passed_without_a_heartbeat(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with registered(world) as lease:
        first = lease.worker
        await world.sql("delete from backline.workers")
        assert await lease.ensure() == first
        monkeypatch.setattr("backline.worker.lease.elapsed", lambda: elapsed() + LEASE)
        ids = await asyncio.gather(*(lease.ensure() for _ in range(4)))
        assert len(set(ids)) == 1
        assert first not in ids
        assert [row["id"] for row in await world.sql("select id from backline.workers")] == ids[:1]


async def test_lease_is_checked_as_soon_as_its_session_has_ended(world: World) -> None:
    """Its rows are free from then on, long before the next heartbeat."""
    async with registered(world) as lease:
        first = lease.worker
        assert await lease.ensure() == first
        await terminate_sessions(world)
        assert await lease.ensure() != first


async def terminate_sessions(world: World) -> None:
    await world.sql(
        "select pg_terminate_backend(l.pid) from pg_locks l "
        "join pg_database d on d.oid = l.database "
        "where l.locktype = 'advisory' and l.granted and d.datname = current_database()"
    )
    await world.wait_until_disconnected()


async def test_rows_are_held_until_they_are_released_edited_or_stored(world: World) -> None:
    await world.insert(*texts(4))
    lease = await world.store.register(world.collection, None, 20)
    jobs = await world.store.claim(world.collection, lease.worker, 2)
    await world.sql("delete from backline.jobs where key in ('3', '4')")
    page = await world.store.claim_batch(world.collection, lease.worker, None, None, 10)
    jobs += page.jobs

    async def held(worker: int = lease.worker) -> set[str]:
        flags = await world.store.held(world.collection, worker, jobs)
        return {job.key for job, flag in zip(jobs, flags, strict=True) if flag}

    assert await held() == {"1", "2", "3", "4"}
    assert await held(lease.worker + 1) == set()
    await world.sql("update notes set body = 'edited' where id = 1")
    await world.sql("select backline.apply_changes(%s)", world.collection.id)
    assert await held() == {"2", "3", "4"}
    await world.release(lease.worker, ["3"])
    assert await held() == {"2", "4"}
    await world.store.unregister(lease)
    assert await held() == set()
