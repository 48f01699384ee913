"""Measure what Backline costs the statements of the application, in one run.

    .venv/bin/python -m benchmarks.host [--rows 100000] [--rounds 5] [--only bulk,filled,…]

(a) bulk           insert, update of the text, update of another column and delete of all rows, in
                   one statement each, on a table without vectors
(b) filled         the last three on a table whose vectors are filled
(c) single         updates of one row, of the text and of another column: p50, p99, and the
                   processor time of the backend
(d) writers        eight clients of pgbench that update, or insert, one row per transaction
    bulk-sync, single-sync, writers-sync: the same beside a `backline sync`
(e) lag            at 100 edits a second: from an edit's commit to its vector and keyword hit
(f) idle           processor time of a `sync` without work and of Postgres, over --seconds
(g) size           of the schema `backline` after --edits edits of one row, by eight clients
(h) serialization  failures of REPEATABLE READ writers beside a `sync`

Every comparison takes the tables in turn, because machines are noisy: `bare` has no trigger, `docs`
is a collection, and `floor` has triggers with transition tables and an empty function. All three
have the same columns and rows, and the same vectors. The keyword index is on, as by default. The
medians and all rounds are kept. Results go to benchmarks/results/host.json and to the terminal.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import host_worker, lag, shared
from benchmarks.host_tables import TABLES, Host, compared, empty, filled, say, turns
from benchmarks.host_worker import SCRIPTS, pgbench

RESULTS = shared.FOLDER / "host.json"
STATEMENTS = {
    "insert": "insert into {} (id, body) select id, body from texts",
    "update_text": "update {} set body = 'edited ' || left(body, 93)",
    "update_other": "update {} set visits = visits + 1",
    "delete": "delete from {}",
}
SINGLE = {
    "text": "update {} set body = %(text)s where id = %(id)s",
    "other": "update {} set visits = %(visits)s where id = %(id)s",
}


def beside(host: Host, sync: bool) -> AbstractContextManager[Any]:  # noqa: FBT001
    return shared.syncing(host.url, "docs") if sync else nullcontext()


# --- (a) and (b) --------------------------------------------------------------------------------


def bulk(
    url: str, args: argparse.Namespace, *, sync: bool = False, vectors: bool = False
) -> dict[str, Any]:
    """Time each statement on each table. Only a `sync` or a backfill makes vectors."""
    steps = list(STATEMENTS)[1:] if vectors else list(STATEMENTS)
    rounds: dict[str, list[dict[str, float]]] = {
        f"{step}{measure}": [] for step in steps for measure in ("", "_processor")
    }
    for turn in range(args.rounds):
        opened = filled if vectors else empty
        with opened(url, args.rows) as host, beside(host, sync):
            for step in steps:
                taken = one_statement(host, STATEMENTS[step], turn, sync=sync)
                rounds[step].append({name: taken[name][0] for name in TABLES})
                rounds[f"{step}_processor"].append({name: taken[name][1] for name in TABLES})
                say(f"{step} {rounds[step][-1]}")
    return {step: compared(each) for step, each in rounds.items()}


def one_statement(
    host: Host, statement: str, turn: int, *, sync: bool
) -> dict[str, tuple[float, float]]:
    """Return the times on each table. A `sync` catches up before the next table's turn."""
    taken = {}
    for name in turns(TABLES, turn):
        taken[name] = host.timed(statement.format(name))
        if sync and name == "docs":
            host.catch_up()
    if sync:
        host.level()
    else:
        for name in TABLES:
            host.execute(f"vacuum {name}")
    return taken


# --- (c) ----------------------------------------------------------------------------------------


def single(url: str, args: argparse.Namespace, *, sync: bool = False) -> dict[str, Any]:
    """Time updates of one row by its key, prepared, with the tables in turn for each key."""
    results: dict[str, Any] = {"samples": args.samples}
    with filled(url, args.rows) as host, beside(host, sync):
        for kind, statement in SINGLE.items():
            for commits in ("on", "off"):
                host.execute(f"set synchronous_commit = {commits}")
                rounds = [samples(host, statement, args, turn) for turn in range(args.rounds)]
                name = kind + ("" if commits == "on" else "_without_flush")
                results[name] = {
                    f"p{p}_us": compared([percentile(each, p) for each in rounds], 0)
                    for p in (50, 99)
                }
            times = [processor_time(host, statement, args, turn) for turn in range(args.rounds)]
            results[f"{kind}_processor_us"] = compared(times, 1)
            say(f"single {kind}: {results[kind]}, processor time {times}")
    return results


def samples(
    host: Host, statement: str, args: argparse.Namespace, turn: int
) -> dict[str, list[float]]:
    """Return the microseconds of each update."""
    taken: dict[str, list[float]] = {name: [] for name in TABLES}
    for i in range(args.samples):
        values = edited_row(turn * args.samples + i, args.rows)
        for name in turns(TABLES, i):
            began = time.perf_counter()
            host.connection.execute(statement.format(name), values, prepare=True)
            taken[name].append(1e6 * (time.perf_counter() - began))
    return taken


def processor_time(
    host: Host, statement: str, args: argparse.Namespace, turn: int
) -> dict[str, float]:
    """Return the microseconds of the backend per update, which other processes hardly change."""
    taken = {}
    for name in turns(TABLES, turn):
        used = host.processor_time()
        for i in range(args.samples):
            values = edited_row((turn + args.rounds) * args.samples + i, args.rows)
            host.connection.execute(statement.format(name), values, prepare=True)
        taken[name] = 1e6 * (host.processor_time() - used) / args.samples
    return {name: taken[name] for name in TABLES}


def edited_row(number: int, rows: int) -> dict[str, Any]:
    text = f"edit {number} of this row ".ljust(100, "x")
    return {"id": 1 + number * 7919 % rows, "visits": number, "text": text}


def percentile(taken: dict[str, list[float]], p: int) -> dict[str, float]:
    return {name: float(np.percentile(each, p)) for name, each in taken.items()}


# --- (d) ----------------------------------------------------------------------------------------


def writers(url: str, args: argparse.Namespace, *, sync: bool = False) -> dict[str, Any]:
    """Count the transactions a second of eight clients."""
    results: dict[str, Any] = {}
    for kind in SCRIPTS:
        with filled(url, args.rows) as host, beside(host, sync):
            rounds = []
            for turn in range(args.rounds):
                rates = {}
                for name in turns(("bare", "docs"), turn):
                    host.execute("checkpoint")
                    rates[name] = pgbench(host, kind, name, args.rows, "-T", str(args.duration))
                    if sync:
                        host.catch_up()
                rounds.append({name: rates[name] for name in ("bare", "docs")})
                say(f"writers {kind} {rounds[-1]}")
            results[kind] = compared(rounds, 0)
    return results


# --- (e) ----------------------------------------------------------------------------------------


def measure_lag(url: str, args: argparse.Namespace) -> dict[str, Any]:
    rounds = []
    for _ in range(args.rounds):
        with filled(url, args.rows) as host:
            rounds.append(lag.measure(host.url, "docs", args.rows, args.lag_edits))
            say(f"lag {rounds[-1]}")
    medians = {p: statistics.median(each[p] for each in rounds) for p in ("p50_ms", "p99_ms")}
    keyword = {
        p: statistics.median(each["keyword"][p] for each in rounds) for p in ("p50_ms", "p99_ms")
    }
    return {"vector": medians, "keyword": keyword, "all": rounds}


# --- all ----------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {
    "bulk": bulk,
    "filled": partial(bulk, vectors=True),
    "single": single,
    "writers": writers,
    "bulk-sync": partial(bulk, sync=True),
    "single-sync": partial(single, sync=True),
    "writers-sync": partial(writers, sync=True),
    "lag": measure_lag,
    "idle": host_worker.idle,
    "size": host_worker.size,
    "serialization": host_worker.serialization,
}


def main(args: argparse.Namespace) -> None:
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise SystemExit(f"no part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    with shared.started() as (url, folder):
        args.folder = folder
        for part in chosen:
            say(part)
            result = {"rows": args.rows, "rounds": args.rounds, **PARTS[part](url, args)}
            machine = {"machine": f"{platform.machine()}, {platform.python_version()}"}
            shared.save(args.output, {**machine, part: result})
            print(json.dumps({part: result}, indent=2), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--samples", type=int, default=2000, help="single: updates per round")
    parser.add_argument("--duration", type=int, default=6, help="writers: seconds per round")
    parser.add_argument("--lag-edits", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=60, help="idle, serialization")
    parser.add_argument("--edits", type=int, default=1_000_000, help="size")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
