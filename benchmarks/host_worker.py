"""Measure a `sync` beside the application: its idle time, its size, and failures it causes."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import psycopg
from benchmarks import shared
from benchmarks.host_tables import Host, filled, relations, say

CLIENTS = 8
WRITERS = 4
WRITER_ROWS = 4  # few, so that a row is edited again while its vector is written
FILLER = "the same words follow in every text of this script, up to a hundred characters in all"
SCRIPTS = {
    "update": f"""
\\set id random(1, :rows)
\\set n random(1, 1000000000)
update :table set body = left(cast(:n as text) || ' {FILLER}', 100) where id = :id;
""",
    "insert": f"""
\\set n random(1, 1000000000)
insert into :table (body) values (left(cast(:n as text) || ' {FILLER}', 100));
""",
}


def pgbench(host: Host, kind: str, table: str, rows: int, *limit: str, flush: bool = True) -> float:
    """Run eight clients of pgbench. Return the transactions a second.

    The name of the table is part of the script, because a prepared statement has no variable there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "script.sql"
        script.write_text(SCRIPTS[kind].replace(":table", table))
        done = subprocess.run(
            [shared.program("pgbench"), "--no-vacuum", "--protocol=prepared", f"-c{CLIENTS}",
             "-j2", "-D", f"rows={rows}", "-f", str(script), *limit, host.url],
            env={**os.environ, "PGOPTIONS": f"-c synchronous_commit={'on' if flush else 'off'}"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode or rate is None or failed is None or int(failed[1]):
        raise SystemExit(f"pgbench: {done.stdout}{done.stderr}")
    return float(rate[1])


# --- idle ---------------------------------------------------------------------------------------


def idle(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return processor time as a share of one core, without and with a `sync`."""
    shares: dict[str, list[float]] = {"without": [], "postgres": [], "sync": []}
    with filled(url, args.rows) as host:
        host.execute("checkpoint")
        postmaster = psutil.Process(int((args.folder / "postmaster.pid").read_text().split()[0]))
        for _ in range(args.rounds):
            time.sleep(5)
            before = server_time(postmaster)
            time.sleep(args.seconds)
            shares["without"].append((server_time(postmaster) - before) / args.seconds)
            with shared.syncing(host.url, "docs") as pid:
                time.sleep(10)
                process = psutil.Process(pid)
                before, own = server_time(postmaster), own_time(process)
                time.sleep(args.seconds)
                shares["postgres"].append((server_time(postmaster) - before) / args.seconds)
                shares["sync"].append((own_time(process) - own) / args.seconds)
            say(f"idle { {name: each[-1] for name, each in shares.items()} }")
    percent = {name: [round(100 * s, 3) for s in each] for name, each in shares.items()}
    total = [p + s for p, s in zip(percent["postgres"], percent["sync"], strict=True)]
    return {
        "seconds": args.seconds,
        "percent_of_a_core": round(sorted(total)[len(total) // 2], 3), **percent,
    }  # fmt: skip


def own_time(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def server_time(postmaster: psutil.Process) -> float:
    """Return the seconds of all processes of a server, with those that have ended."""
    times = postmaster.cpu_times()
    seconds = float(times.user + times.system + times.children_user + times.children_system)
    for child in postmaster.children():
        try:
            seconds += own_time(child)
        except psutil.NoSuchProcess:  # the postmaster's time of children includes it soon
            continue
    return seconds


# --- size ---------------------------------------------------------------------------------------


def size(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the size of the schema `backline` after many edits, and after a vacuum."""
    sizes: dict[str, int] = {}
    with filled(url, args.rows) as host, shared.syncing(host.url, "docs"):
        sizes["at_first"] = schema_size(host)
        began = time.perf_counter()
        with sampling(host.url) as peak:
            rate = pgbench(
                host, "update", "docs", args.rows, f"-t{args.edits // CLIENTS}", flush=False
            )
            say(f"size: {args.edits} edits at {rate:.0f}/s")
            written = time.perf_counter() - began
            host.catch_up()
        caught_up = time.perf_counter() - began - written
        sizes["most"], sizes["after"] = peak[0], schema_size(host)
        largest = largest_relations(host)
        for step, statement in (("vacuum", "vacuum"), ("vacuum_full", "vacuum full")):
            for relation in relations(host):
                host.execute(f"{statement} {relation}")
            sizes[f"after_{step}"] = schema_size(host)
    return {
        "edits": args.edits, "edits_per_second": round(rate), "caught_up_s": round(caught_up, 1),
        "mib": {name: round(each / 2**20, 1) for name, each in sizes.items()},
        "ratio_to_after_vacuum": round(sizes["after"] / sizes["after_vacuum"], 2),
        "ratio_to_after_vacuum_full": round(sizes["after"] / sizes["after_vacuum_full"], 2),
        "largest_mib": largest,
    }  # fmt: skip


SIZE = (
    "select coalesce(sum(pg_total_relation_size(oid)), 0)::bigint from pg_class "
    "where relnamespace = 'backline'::regnamespace and relkind in ('r', 'S')"
)


def schema_size(host: Host) -> int:
    [(found,)] = host.execute(SIZE)
    return int(found)


def largest_relations(host: Host) -> dict[str, float]:
    found = host.execute(
        "select relname, pg_total_relation_size(oid) / 1048576.0 from pg_class "
        "where relnamespace = 'backline'::regnamespace and relkind = 'r' order by 2 desc limit 6"
    )
    return {name: round(float(mib), 1) for name, mib in found}


class sampling:  # noqa: N801
    """Sample the schema's size each second. Entering returns a list whose item is the largest."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = threading.Event()
        self._largest = [0]
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._ended.wait(1):
                row = connection.execute(SIZE).fetchone()
                assert row is not None
                self._largest[0] = max(self._largest[0], row[0])

    def __enter__(self) -> list[int]:
        self._thread.start()
        return self._largest

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


# --- serialization ------------------------------------------------------------------------------


def serialization(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Count failures of REPEATABLE READ transactions that write rows of their own.

    Without a `sync` only the triggers can cause one. The context of an error tells whether the row
    itself was written by another transaction, or a row of Backline's own tables.
    """
    results: dict[str, Any] = {}
    seconds = max(1, args.seconds // 6)
    for beside in ("alone", "sync"):
        with filled(url, args.rows) as host:
            worker = shared.syncing(host.url, "docs") if beside == "sync" else nullcontext()
            with worker:
                total = {"bare": Counter[str](), "docs": Counter[str]()}
                for _ in range(args.rounds):
                    for name, counted in total.items():
                        counted.update(repeatable_reads(host.url, name, seconds))
            results[beside] = {name: dict(sorted(each.items())) for name, each in total.items()}
            say(f"serialization {beside} {results[beside]}")
    return {"seconds_per_round": seconds, "writers": WRITERS, **results}


def repeatable_reads(url: str, table: str, seconds: float) -> Counter[str]:
    """Count the outcomes of the transactions of all writers, each in a thread."""
    ends = time.perf_counter() + seconds
    counted = Counter(committed=0, on_the_row=0, in_a_trigger=0)
    with ThreadPoolExecutor(WRITERS) as pool:
        for outcomes in pool.map(
            lambda writer: list(write_own_rows(url, table, writer, ends)), range(WRITERS)
        ):
            counted.update(outcomes)
    return counted


def write_own_rows(url: str, table: str, writer: int, ends: float) -> Iterator[str]:
    """Read a row, wait 2 ms and update it, in one transaction. Yield each outcome."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        number = 0
        while time.perf_counter() < ends:
            number += 1
            key = 1 + writer * WRITER_ROWS + number % WRITER_ROWS
            try:
                with connection.transaction():
                    connection.execute(f"select body from {table} where id = %s", [key])
                    time.sleep(0.002)
                    connection.execute(
                        f"update {table} set body = %s where id = %s",
                        [f"{writer} {number} {FILLER}", key],
                    )
            except psycopg.errors.SerializationFailure as error:
                yield "in_a_trigger" if error.diag.context else "on_the_row"
            else:
                yield "committed"
