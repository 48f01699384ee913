"""Change the model of a table while it is searched and edited, and kill the change in each state.

    .venv/bin/python -m benchmarks.model_change [--rows 200000] [--searches 10000]

The hash model's vectors of 384 dimensions are replaced by those of 385. A search's score shows the
model and the text of each vector that it compared. Results go to
benchmarks/results/model_change.json and to the terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from benchmarks import shared

from backline import errors, model_change
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.postgres.store import Store, open_store
from backline.search.query import Query, rank_rows

RESULTS = shared.FOLDER / "model_change.json"
MODELS = (384, 385)
HITS = 10
TOLERANCE = 2e-4
# A vector of a text that was replaced longer ago than this is stale.
STALE_SECONDS = 2.0
BODY = "Document {} about the wiring of hall {}, its lamps, doors and floors, at some length."


# --- the users ------------------------------------------------------------------------------------


@dataclass
class Users:
    """Edits rows and searches, both at a rate, and keeps what was written and found."""

    url: str
    rows: int
    rate: int
    versions: dict[int, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))
    edits: list[tuple[float, float]] = field(default_factory=list)
    searches: list[tuple[float, float]] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def edit(self) -> None:
        """Edit `rate` rows a second."""
        with psycopg.connect(self.url, autocommit=True, application_name="a user") as connection:
            began = time.perf_counter()
            for number in range(10**9):
                time.sleep(max(0.0, began + number / self.rate - time.perf_counter()))
                if self.stopping.is_set():
                    return
                key = random.randrange(self.rows)
                text = BODY.format(key, f"{number} since today")
                started = time.perf_counter()
                connection.execute("update docs set body = %s where id = %s", [text, key])
                self.edits.append((started, time.perf_counter()))
                self.versions[key].append((time.perf_counter(), text))

    async def search(self) -> None:
        """Search `rate` times a second, by the name of the collection."""
        async with open_store(self.url) as store:
            slots = asyncio.Semaphore(6)
            tasks: set[asyncio.Task[None]] = set()
            began = time.perf_counter()
            for number in range(10**9):
                await asyncio.sleep(max(0.0, began + number / self.rate - time.perf_counter()))
                if self.stopping.is_set():
                    break
                await slots.acquire()
                task = asyncio.create_task(self._ask(store, f"question {number}"))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(lambda _: slots.release())
            await asyncio.gather(*tasks)

    async def _ask(self, store: Store, question: str) -> None:
        started = time.perf_counter()
        try:
            collection = await store.collection("docs")
            vector = hash_vectors([question], collection.model.dimensions)[0].tolist()
            query = Query(question, "semantic", HITS)
            hits = await rank_rows(store, collection, query, question, vector)
        except errors.BacklineError as error:
            self.answers["failed"] += 1
            self.examples.append(str(error))
            return
        finally:
            self.searches.append((started, time.perf_counter()))
        self._judge(question, hits, started)

    def _judge(self, question: str, hits: Any, at: float) -> None:
        self.answers["answers"] += 1
        if len(hits) < HITS:
            self.answers["incomplete"] += 1
        found = [self._vectors_of(question, int(hit.key), hit.score) for hit in hits]
        if not any(all(model in each for each in found) for model in MODELS):
            self.answers["of two models" if all(found) else "not explained"] += 1
            return
        model = next(m for m in MODELS if all(m in each for each in found))
        self.answers[f"of {model} dimensions"] += 1
        replaced = [each[model] for each in found]
        if any(at - moment > STALE_SECONDS for moment in replaced):
            self.answers["stale"] += 1

    def _vectors_of(self, question: str, key: int, score: float) -> dict[int, float]:
        """Return the models that the score can be of, and when the text of it was replaced."""
        first = (0.0, BODY.format(key, key % 97))
        versions = [first, *self.versions.get(key, [])]
        found: dict[int, float] = {}
        for model in MODELS:
            vectors = hash_vectors([question, *(text for _, text in versions)], model)
            for i in range(len(versions)):
                if abs(float(np.dot(vectors[0], vectors[i + 1])) - score) < TOLERANCE:
                    later = versions[i + 1][0] if i + 1 < len(versions) else float("inf")
                    found[model] = max(later, found.get(model, 0.0))
        return found


def longest(spans: list[tuple[float, float]], begin: float, end: float) -> float:
    """Return the longest of those spans that overlap an interval, in ms."""
    within = [stop - start for start, stop in list(spans) if stop > begin and start < end]
    return round(1000 * max(within, default=0.0), 1)


def percentile(spans: list[tuple[float, float]], share: float) -> float:
    return round(1000 * float(np.percentile([b - a for a, b in list(spans)], share)), 1)


# --- the change -----------------------------------------------------------------------------------


def state_of(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "select state from backline.model_changes order by id desc limit 1"
        ).fetchone()
    return row[0] if row else "none"


def killed(url: str, arguments: list[str], when: Callable[[], bool]) -> bool:
    """Start a command and kill it when `when` is true; return whether it was still running."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [shared.BACKLINE, *arguments], env=shared.environment(url), cwd=tempfile.gettempdir(),
            stdout=log, stderr=log,
        )  # fmt: skip
        while process.poll() is None and not when():
            time.sleep(0.01)
        alive = process.poll() is None
        process.kill()
        process.wait()
    return alive


def after(seconds: float) -> Callable[[], bool]:
    began = time.perf_counter()
    return lambda: time.perf_counter() - began > seconds


def change(url: str, users: Users, rows: int) -> dict[str, Any]:
    """Run the whole change, killed once in each state; return its figures."""
    to = ["model", "change", "docs", "--to", f"hash@{MODELS[1]}", "--yes"]
    kills = {
        "filling": killed(url, to, lambda: filled(url) > rows / 3),
        "indexing": killed(url, to, lambda: state_of(url) == "indexing"),
    }
    shared.backline(url, *to)
    kills["ready"] = killed(url, ["model", "cutover", "docs"], after(0.3))
    figures: dict[str, Any] = asyncio.run(swap(url, users))
    kills["serving"] = killed(url, ["model", "rollback", "docs"], after(0.3))
    with suppress(SystemExit):
        shared.backline(url, "model", "cutover", "docs")
    kills["retiring"] = killed(
        url, ["model", "retire", "docs"], lambda: state_of(url) in ("retiring", "retired")
    )
    shared.backline(url, "model", "retire", "docs")
    return {**figures, "killed": kills, "state": state_of(url)}


def longest_blocked(url: str, ended: threading.Event) -> float:
    """Return how long the step held up another session, in ms, from samples until it ended."""
    longest = 0.0
    with psycopg.connect(url, autocommit=True) as connection:
        while not ended.wait(0.01):
            row = connection.execute(
                "select coalesce(max(extract(epoch from clock_timestamp() - w.query_start)), 0)"
                "::float8 from pg_stat_activity w join pg_stat_activity b "
                "on b.pid = any (pg_blocking_pids(w.pid)) where w.wait_event_type = 'Lock' "
                "and b.query ~ 'backline.(cutover|rollback_change|thaw_target)'"
            ).fetchone()
            longest = max(longest, row[0] if row else 0.0)
    return round(1000 * longest, 1)


def filled(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "select backline.coverage(id) from backline.collections where name = 'docs@next'"
        ).fetchone()
    return int(row[0]["embedded"]) if row else 0


async def swap(url: str, users: Users) -> dict[str, Any]:
    """Cut over, roll back and cut over again; return how long each took and held up users."""
    async with open_store(url) as store:
        figures = {}
        for name, step in (
            ("cutover", model_change.cutover), ("rollback", model_change.rollback),
            ("cutover_again", model_change.cutover),
        ):  # fmt: skip
            figures[name] = await timed(users, step(store, "docs"))
            await asyncio.sleep(3)
    return figures


async def timed(users: Users, step: Awaitable[None]) -> dict[str, float]:
    ended = threading.Event()
    blocked = asyncio.create_task(asyncio.to_thread(longest_blocked, users.url, ended))
    begin = time.perf_counter()
    await step
    end = time.perf_counter()
    ended.set()
    await asyncio.sleep(1)
    return {
        "ms": round(1000 * (end - begin), 1),
        "blocked_ms": await blocked,
        "longest_edit_meanwhile_ms": longest(users.edits, begin, end),
        "longest_search_meanwhile_ms": longest(users.searches, begin, end),
    }


def under_load(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Change the model of `docs` beside a sync, edits and searches."""
    make_table(url, "docs", options.rows)
    shared.backline(url, "add", "docs", "--text", "{body}", "--model", f"hash@{MODELS[0]}")
    shared.backline(url, "backfill", "docs")
    users = Users(url, options.rows, options.rate)
    with shared.syncing(url, "docs"):
        threads = [
            threading.Thread(target=users.edit),
            threading.Thread(target=lambda: asyncio.run(users.search())),
        ]
        for thread in threads:
            thread.start()
        time.sleep(5)
        calm = {"edit": percentile(users.edits, 99), "search": percentile(users.searches, 99)}
        figures = change(url, users, options.rows)
        shared.wait(lambda: users.answers["answers"] >= options.searches, 3600)
        users.stopping.set()
        for thread in threads:
            thread.join()
    return {
        "rows": options.rows, "answers": dict(users.answers), "edits": len(users.edits),
        "p99_before_ms": calm, **figures, "examples": users.examples[:3],
    }  # fmt: skip


# --- the rate of the fill -------------------------------------------------------------------------


def make_table(url: str, table: str, rows: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create table {table} (id bigint primary key, body text)")
        with connection.cursor() as cursor, cursor.copy(f"copy {table} from stdin") as copy:
            for n in range(rows):
                copy.write_row((n, BODY.format(n, n % 97)))
        connection.execute(f"vacuum analyze {table}")


def fills(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rows a second of a first fill, and of the fill of a second target, by place."""
    figures = {}
    for place, flags in (("column", []), ("side", ["--into", "{}_vectors"])):
        rates: dict[str, list[float]] = {"first": [], "second": []}
        for turn in range(options.rounds):
            table = f"{place}_{turn}"
            make_table(url, table, options.rows)
            into = [flag.format(table) for flag in flags]
            shared.backline(
                url, "add", table, "--text", "{body}", "--model", f"hash@{MODELS[0]}", *into
            )
            rates["first"].append(rate(url, table, "backfill", table, "--no-index"))
            second = asyncio.run(begin(url, table))
            rates["second"].append(rate(url, table, "backfill", second, "--no-index"))
        medians = {name: round(float(np.median(each))) for name, each in rates.items()}
        ratio = round(medians["second"] / medians["first"], 3)
        figures[place] = {**medians, "ratio": ratio, "rounds": rates}
    return figures


async def begin(url: str, table: str) -> str:
    async with open_store(url) as store:
        target = model_change.NewTarget(HashEmbedder(MODELS[1]).model)
        await model_change.begin(store, await store.collection(table), target)
    return f"{table}@next"


def rate(url: str, table: str, *command: str) -> float:
    report = json.loads(shared.backline(url, *command, "--json"))
    return round(float(report["embedded"] / report["seconds"]), 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--searches", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=100, help="searches and edits a second")
    parser.add_argument("--rounds", type=int, default=3, help="of the fills")
    parser.add_argument("--only", choices=("load", "fills"))
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with shared.started() as (url, _):
        shared.backline(url, "migrate")
        if options.only != "fills":
            results["load"] = under_load(url, options)
            print(json.dumps(results["load"], indent=2), flush=True)
        if options.only != "load":
            results["fills"] = fills(url, options)
            print(json.dumps(results["fills"], indent=2), flush=True)
    shared.save(RESULTS, results)


if __name__ == "__main__":
    main()
