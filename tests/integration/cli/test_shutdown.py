"""Ctrl-C ends a command in time, whatever the network, the provider or the database does."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from tests.integration.cli.conftest import Cli, Sql
from tests.integration.harness import eventually
from tests.integration.proxy import FaultProxy, Stall, fault_proxy
from tests.nightly import first_at_once
from tests.provider import StandInProvider

from backline.cli.serve import STOP_SECONDS
from backline.cli.signals import END_SECONDS, UNWIND_SECONDS

# The limit of the process, and its start and end on a busy machine.
LIMIT = END_SECONDS + UNWIND_SECONDS + 3
# Interruptions at random moments. More of them: SHUTDOWNS=200.
SHUTDOWNS = int(os.environ.get("SHUTDOWNS", "6"))


def stop(process: subprocess.Popen[str], within: float = LIMIT) -> tuple[int, float, str]:
    """Interrupt a process; return its exit code, the seconds until its end, and its output."""
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"not ended after {within} s: {out} {err}")
    assert "Traceback" not in err, err
    return process.returncode, time.monotonic() - started, out + err


@contextmanager
def edits(database: str) -> Iterator[None]:
    """Edit rows of `tickets` without a pause, until the end of the block."""
    ended = threading.Event()

    def edit() -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            number = 0
            while not ended.is_set():
                number += 1
                connection.execute(
                    "update tickets set title = %s where id = %s",
                    (f"edit {number}", 1 + number % 120),
                )

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.timeout(60 + 30 * SHUTDOWNS)
@pytest.mark.parametrize("model", first_at_once(["paid", "hash"]))
def test_sync_under_a_stream_of_edits_ends_at_any_moment(
    cli: Cli, database: str, sql: Sql, request: pytest.FixtureRequest, model: str
) -> None:
    request.getfixturevalue("collection" if model == "hash" else "paid")
    choose = random.Random(7)
    with edits(database):
        for _ in range(SHUTDOWNS):
            process = cli.start("sync", "tickets")
            time.sleep(choose.choice([choose.uniform(0.2, 2.0), choose.uniform(1.5, 4.0)]))
            code, _seconds, output = stop(process)
            assert code == 0 or (code == 130 and "Following" not in output), output
    assert sql("select count(*) from backline.jobs where worker_id is not null")[0][0] == 0
    assert cli("backfill", "tickets", "--json").json["complete"]
    assert cli("verify", "tickets", "--json").json["passed"]


# --- a stalled database ---------------------------------------------------------------------------


async def wait_until(condition: Callable[[], bool]) -> None:
    await eventually(condition, "the command to reach the moment", within=30)


async def interrupted(
    cli: Cli, proxy: FaultProxy, command: tuple[str, ...], moment: Callable[[], bool]
) -> tuple[int, float, str]:
    """Start a command over the relay, and interrupt it at a moment."""
    process = cli.start(*command, DATABASE_URL=proxy.url)
    await wait_until(moment)
    await asyncio.sleep(0.3)
    return await asyncio.to_thread(stop, process)


MOMENTS = {
    "at start-up": b"pg_backend_pid()",
    "at registration": b"backline.register_worker(",
    "at a claim": b"backline.claim(",
    "at a write": b"backline.complete(",
    "at the report": b"backline.failures f",
}


@pytest.mark.parametrize("moment", first_at_once(MOMENTS))
async def test_backfill_ends_on_a_stalled_network(
    cli: Cli, paid: StandInProvider, database: str, moment: str
) -> None:
    async with fault_proxy(database) as proxy:
        proxy.stall = Stall(MOMENTS[moment], everywhere=True)
        code, _, output = await interrupted(
            cli, proxy, ("backfill", "tickets"), lambda: proxy.stalled
        )
    assert code == 130, output
    assert cli("backfill", "tickets", "--json").json["complete"]


@pytest.mark.parametrize(
    "command",
    first_at_once([("sync", "tickets"), ("status",), ("search", "word"), ("migrate",)]),
)
async def test_command_ends_on_a_stalled_network(
    cli: Cli, collection: str, database: str, command: tuple[str, ...]
) -> None:
    async with fault_proxy(database) as proxy:
        needle = b"schema_migrations" if command == ("migrate",) else b"collection_records"
        proxy.stall = Stall(needle, everywhere=True)
        code, _, output = await interrupted(cli, proxy, command, lambda: proxy.stalled)
    assert code == 130, output


@pytest.mark.parametrize("needle", first_at_once([b"backline.heartbeat(", b"collection_records"]))
async def test_server_ends_on_a_stalled_network(
    cli: Cli, collection: str, database: str, needle: bytes
) -> None:
    async with fault_proxy(database) as proxy:
        proxy.stall = Stall(needle, everywhere=True)
        process = cli.start("serve", "-p", "0", DATABASE_URL=proxy.url)
        await wait_until(lambda: proxy.stalled)
        code, _, output = await asyncio.to_thread(stop, process, STOP_SECONDS + 3)
    assert code in (0, 130), output


async def test_second_ctrl_c_ends_a_stalled_backfill_at_once(
    cli: Cli, paid: StandInProvider, database: str
) -> None:
    async with fault_proxy(database) as proxy:
        proxy.stall = Stall(b"backline.complete(", everywhere=True)
        process = cli.start("backfill", "tickets", DATABASE_URL=proxy.url)
        await wait_until(lambda: proxy.stalled)
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.5)
        code, seconds, _ = await asyncio.to_thread(stop, process)
    assert code == 130
    assert seconds < UNWIND_SECONDS + 1.5


async def test_backfill_gives_up_on_a_stalled_network(
    cli: Cli, paid: StandInProvider, database: str
) -> None:
    async with fault_proxy(database) as proxy:
        proxy.stall = Stall(b"backline.complete(", everywhere=True)
        process = cli.start(
            "backfill", "tickets", DATABASE_URL=proxy.url, BACKLINE_GIVE_UP_AFTER="10"
        )
        await wait_until(lambda: proxy.stalled)
        started = time.monotonic()
        _, err = await asyncio.to_thread(process.communicate, timeout=75)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert time.monotonic() - started < 70
    assert cli("backfill", "tickets", "--json").json["complete"]


# --- a provider, a lock and an index --------------------------------------------------------------


@pytest.mark.parametrize("behaviour", first_at_once([{"held": True}, {"trickle_s": 60.0}]))
def test_backfill_ends_while_the_provider_does_not_answer(
    cli: Cli, paid: StandInProvider, behaviour: dict[str, object]
) -> None:
    paid.behave(**behaviour)
    process = cli.start("backfill", "tickets", "--batch-size", "5", "--json")
    paid.wait_in_flight(1) if "held" in behaviour else paid.wait_calls(1)
    code, _, output = stop(process)
    assert (code, '"state":"interrupted"' in output.replace(" ", "")) == (1, True), output


def test_backfill_ends_while_the_table_is_locked(
    cli: Cli, paid: StandInProvider, database: str, sql: Sql
) -> None:
    with paid.held():
        process = cli.start("backfill", "tickets", "--json")
        paid.wait_in_flight(1)
        holder = psycopg.connect(database)
        holder.execute("lock table tickets in access exclusive mode")
    time.sleep(1)
    code, _, output = stop(process)
    assert code in (1, 130), output
    holder.close()
    assert cli("backfill", "tickets", "--json").json["complete"]


def test_backfill_ends_while_it_builds_an_index(
    cli: Cli, collection: str, database: str, sql: Sql
) -> None:
    """The build waits for a transaction that holds a snapshot."""
    sql("insert into tickets select i, 'ticket', 'body ' || i from generate_series(200, 11000) i")
    with psycopg.connect(database) as holder:
        holder.execute("insert into tickets values (100000, 'open', 'transaction')")
        process = cli.start("backfill", "tickets", "--json")
        deadline = time.monotonic() + 60
        while not sql(
            "select 1 from pg_stat_activity where query like 'create index concurrently%%'"
        ):
            assert time.monotonic() < deadline, "no build has begun"
            time.sleep(0.05)
        code, _, output = stop(process)
    assert code == 0, output
    assert "the build was stopped" in output
    assert cli("index", "tickets", "--json").json["vectors"]["state"] == "built"
    assert sql("select 1 from pg_index where not indisvalid") == []
