"""Compare the engine with its limits, in one run.

    .venv/bin/python -m benchmarks.engine [--rows 100000] [--only pipeline,plain,provider,…]

(a) pipeline   whole backfills with the instant hash embedder at 384 and 1536 dimensions, as a
               ratio to a bare COPY of the same vectors plus one UPDATE … FROM on such a table
(s) side       the same backfills into a side table, as a ratio to a bare COPY into such a table
(b) plain      the same backfill against a loop of fetch 50, embed, UPDATE row by row
(c) provider   share of the ideal for a provider with 200 ms per call and 8 calls in flight
(d) memory     peak resident memory at 1,000,000 rows over that at 100,000
(e) lag        from the commit of an edit to its new vector and keyword hit, at 100 edits a second
(f) backlog    status and claims with 10,000,000 rows pending (--pending), and whether the status
               equals a count; needs about 3 GB of disk and runs only if --only names it

Every comparison runs round by round on the same server, because machines are noisy. The medians and
all rounds are kept. Results go to benchmarks/results/engine.json and to the terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import lag, shared
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from backline import pgvector
from backline.backfill import Backfill
from backline.cli.entry import tune_garbage_collector
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.embedders.limiter import Limiter
from backline.postgres import migrate
from backline.postgres.store import Store, open_store
from backline.types import Collection, Purpose, Vectors
from backline.verification import verify
from backline.worker.options import WorkerOptions

OPTIONS = WorkerOptions(ahead=2000)  # as the command line does for local embedders
RESULTS = shared.FOLDER / "engine.json"
BODY = "'Row '||i||': a short piece of advice about the mix, the vocal and the room it stands in.'"


class SlowEmbedder(HashEmbedder):
    """The hash embedder with a provider's latency."""

    def __init__(self, latency: float, in_flight: int) -> None:
        super().__init__(384)
        self._latency = latency
        self._gate = asyncio.Semaphore(in_flight)

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        async with self._gate:
            await asyncio.sleep(self._latency)
            return await super().embed(texts, purpose=purpose)


async def table(store: Store, name: str, rows: int) -> None:
    """Create a table of `rows` rows without vectors."""
    await store.connector.execute(f"drop table if exists public.{name} cascade")
    await store.connector.execute(
        f"create table {name} (id bigint primary key, body text not null)"
    )
    await store.connector.execute(
        f"insert into {name} select i, {BODY} from generate_series(1, {rows}) i"
    )
    await store.connector.execute(f"vacuum analyze {name}")


async def collection(
    store: Store, rows: int, dimensions: int, into: str | None = None
) -> Collection:
    """Create the collection `docs` again and drop that of the previous round."""
    for existing in await store.collections():
        if existing.name == "docs":
            await store.drop_collection(existing, drop_column=True)
    await table(store, "docs", rows)
    source = await store.find_table("docs")
    model = HashEmbedder(dimensions).model
    await store.add_collection(
        "docs", source["oid"], key=None, template="{body}", column="embedding", model=model,
        into=into,
    )  # fmt: skip
    return await store.collection("docs")


async def timed(action: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await action()
    return time.perf_counter() - began


async def checkpoint(store: Store) -> None:
    """Flush dirty pages, so that the next round does not pay for writing them."""
    await store.connector.execute("checkpoint")


# --- (a) ----------------------------------------------------------------------------------------


async def copied_vectors(store: Store, rows: int, dimensions: int) -> bytes:
    """Return the keys and vectors of `bare` in the binary format of COPY."""
    await table(store, "bare", rows)
    texts = [r["body"] for r in await store.connector.fetch("select body from bare order by id")]
    elements = pgvector.vector_elements(hash_vectors(texts, dimensions))
    head = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
    tuples = [struct.pack(">hiq", 2, 8, i) + e for i, e in enumerate(elements, start=1)]
    return b"".join((head, *tuples, struct.pack(">h", -1)))


async def bare_side_copy(store: Store, rows: int, dimensions: int) -> float:
    """Time a COPY of ready vectors into a side table with a primary key."""
    payload = await copied_vectors(store, rows, dimensions)
    await store.connector.execute("drop table if exists bare_vectors")
    await store.connector.execute(
        "create table bare_vectors (key_1 bigint primary key, "
        f"embedding extensions.vector({dimensions}) not null)"
    )

    async def act(session: AsyncConnection[DictRow]) -> None:
        incoming = session.cursor().copy("copy bare_vectors from stdin (format binary)")
        async with incoming as copy:
            await copy.write(payload)

    await checkpoint(store)
    async with await store.connector.dedicated() as session:
        return await timed(partial(act, session))


async def bare_copy(store: Store, rows: int, dimensions: int) -> float:
    """Time a COPY of ready vectors into a temporary table and one UPDATE … FROM."""
    payload = await copied_vectors(store, rows, dimensions)
    await store.connector.execute(
        f"alter table bare add column embedding extensions.vector({dimensions})"
    )

    async def act(session: AsyncConnection[DictRow]) -> None:
        async with session.transaction():
            await session.execute(
                "create temporary table incoming (id bigint, embedding extensions.vector) "
                "on commit drop"
            )
            incoming = session.cursor().copy("copy incoming from stdin (format binary)")
            async with incoming as copy:
                await copy.write(payload)
            await session.execute(
                "update bare b set embedding = i.embedding from incoming i where b.id = i.id"
            )

    await checkpoint(store)
    async with await store.connector.dedicated() as session:
        return await timed(partial(act, session))


async def pipeline(store: Store, rows: int, dimensions: int, into: str | None = None) -> float:
    """Time a whole backfill, from a new collection to a finished run."""
    docs = await collection(store, rows, dimensions, into)
    embedder = HashEmbedder(dimensions)
    work = Backfill(store, docs, embedder, Limiter(max_concurrency=2), OPTIONS, build_index=False)
    await checkpoint(store)
    seconds = await timed(work.run)
    checked = await verify(store, docs)
    if not checked.passed or checked.embedded != rows:
        raise SystemExit(f"the pipeline embedded {checked.embedded} of {rows}: {checked.problems}")
    return seconds


async def bench_pipeline(store: Store, rows: int, rounds: int) -> dict[str, Any]:
    return {
        str(dimensions): ratios(
            rows,
            [
                (await pipeline(store, rows, dimensions), await bare_copy(store, rows, dimensions))
                for _ in range(rounds)
            ],
        )
        for dimensions in (384, 1536)
    }


async def bench_side(store: Store, rows: int, rounds: int) -> dict[str, Any]:
    return {
        str(dimensions): ratios(
            rows,
            [
                (
                    await pipeline(store, rows, dimensions, "docs_vectors"),
                    await bare_side_copy(store, rows, dimensions),
                )
                for _ in range(rounds)
            ],
        )
        for dimensions in (384, 1536)
    }


def ratios(rows: int, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Summarize the seconds of the pipeline and of the bare statements, round by round."""
    return {
        "rows": rows,
        "pipeline_s": [round(a, 2) for a, _ in pairs],
        "bare_s": [round(b, 2) for _, b in pairs],
        "rows_per_second": round(rows / statistics.median(a for a, _ in pairs)),
        "ratio": round(statistics.median(a / b for a, b in pairs), 2),
    }


# --- (b) ----------------------------------------------------------------------------------------


async def plain_loop(store: Store, rows: int) -> float:
    """Time a plain script: fetch 50 rows without a vector, embed them, UPDATE one by one."""
    await table(store, "plain", rows)
    await store.connector.execute("alter table plain add column embedding extensions.vector(384)")
    embedder = HashEmbedder(384)

    async def act() -> None:
        while True:
            page = await store.connector.fetch(
                "select id, body from plain where embedding is null limit 50"
            )
            if not page:
                return
            vectors = await embedder.embed([row["body"] for row in page])
            for row, vector in zip(page, vectors, strict=True):
                text = "[" + ",".join(map(str, vector.tolist())) + "]"
                await store.connector.execute(
                    "update plain set embedding = %s::extensions.vector where id = %s",
                    [text, row["id"]],
                )

    await checkpoint(store)
    return await timed(act)


async def bench_plain(store: Store, rows: int, rounds: int) -> dict[str, Any]:
    pairs = [
        (await plain_loop(store, rows), await pipeline(store, rows, 384)) for _ in range(rounds)
    ]
    return {
        "rows": rows,
        "plain_s": [round(a, 2) for a, _ in pairs],
        "pipeline_s": [round(b, 2) for _, b in pairs],
        "times_faster": round(statistics.median(a / b for a, b in pairs), 1),
    }


# --- (c) ----------------------------------------------------------------------------------------


async def bench_provider(store: Store, rows: int) -> dict[str, Any]:
    latency, in_flight, batch = 0.2, 8, 50
    docs = await collection(store, rows, 384)
    embedder = SlowEmbedder(latency, in_flight)
    options = WorkerOptions(batch_size=batch, concurrency=in_flight)
    work = Backfill(
        store, docs, embedder, Limiter(max_concurrency=in_flight), options, build_index=False
    )
    seconds = await timed(work.run)
    ideal = -(-rows // batch) * latency / in_flight
    return {
        "rows": rows, "latency_s": latency, "in_flight": in_flight,
        "seconds": round(seconds, 2), "ideal_s": round(ideal, 2),
        "share": round(ideal / seconds, 3),
    }  # fmt: skip


# --- (d) ----------------------------------------------------------------------------------------

_CHILD = """
import asyncio, sys
sys.path.insert(0, {folder!r})
from benchmarks import engine
engine.tune_garbage_collector()
print(asyncio.run(engine.memory_child({url!r}, {rows})))
"""


async def memory_child(url: str, rows: int) -> float:
    """Return the peak resident MiB of a process that runs one backfill only."""
    async with open_store(url) as store:
        docs = await store.collection("docs")
        limiter = Limiter(max_concurrency=2)
        work = Backfill(store, docs, HashEmbedder(384), limiter, OPTIONS, build_index=False)
        report = await work.run()
        if report.embedded != rows:
            raise SystemExit(f"embedded {report.embedded} of {rows}")
    return peak_mib()


def peak_mib() -> float:
    """Return the peak from /proc: getrusage of a child starts at its parent's size at the fork."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def bench_memory(store: Store, url: str, sizes: Sequence[int]) -> dict[str, Any]:
    peaks = []
    for rows in sizes:
        await collection(store, rows, 384)
        code = _CHILD.format(folder=str(Path(__file__).parents[1]), url=url, rows=rows)
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        peaks.append(float(done.stdout))
    return {
        "rows": list(sizes), "peak_mib": [round(p, 1) for p in peaks],
        "ratio": round(peaks[-1] / peaks[0], 3),
    }  # fmt: skip


# --- (e) ----------------------------------------------------------------------------------------


async def bench_lag(store: Store, url: str, rows: int, edits: int) -> dict[str, Any]:
    """Edit 100 rows a second beside a `sync`. The keyword index of an empty table is ready."""
    docs = await collection(store, 0, 384)
    await store.connector.execute(
        f"insert into docs select i, {BODY} from generate_series(1, {rows}) i"
    )
    work = Backfill(
        store, docs, HashEmbedder(384), Limiter(max_concurrency=2), OPTIONS, build_index=False
    )
    await work.run()
    return await asyncio.to_thread(lag.measure, url, docs.name, rows, edits)


# --- (f) ----------------------------------------------------------------------------------------


async def bench_backlog(store: Store, rows: int) -> dict[str, Any]:
    """Time the status with `rows` pending rows, idle and beside a worker that claims some."""
    docs = await waiting(store, rows)
    [plan] = await store.connector.fetch(
        "select pg_total_relation_size('backline.jobs') / 1048576 as mib"
    )
    idle = [await timed(lambda: store.coverage(docs)) for _ in range(100)]
    count = await timed(lambda: store.connector.fetch("select count(*) from backline.jobs"))
    options = WorkerOptions(batch_size=500, ahead=2000, max_rows=20_000)
    work = Backfill(store, docs, HashEmbedder(8), Limiter(), options, build_index=False)
    running = asyncio.create_task(work.run())
    busy, statuses = [], []
    while not running.done():
        await asyncio.sleep(0.2)
        began = time.perf_counter()
        statuses.append(await store.coverage(docs))
        busy.append(time.perf_counter() - began)
    report = await running
    after = await store.coverage(docs)
    [counted] = await store.connector.fetch(
        "select (select count(*) from backline.jobs) as pending, "
        "(select count(*) from backline.stamps where not stale) as embedded"
    )
    if (after.pending, after.embedded) != (counted["pending"], counted["embedded"]):
        raise SystemExit(f"the status is {after}, a count is {counted}")
    rates = [each.rate for each in statuses if each.rate > 0]
    etas = [each.eta_seconds for each in statuses if each.eta_seconds]
    return {
        "pending": rows, "jobs_mib": int(plan["mib"]),
        "status_ms_p50": round(1000 * statistics.median(idle), 2),
        "status_ms_max": round(1000 * max(idle), 2),
        "status_ms_max_within_a_working_process": round(1000 * max(busy), 2),
        "count_of_the_same_ms": round(1000 * count, 1),
        "embedded_meanwhile": report.embedded,
        "rows_per_second": round(report.rows_per_second),
        "rate_shown": round(statistics.median(rates)) if rates else None,
        "eta_shown_s": round(statistics.median(etas)) if etas else None,
    }  # fmt: skip


async def waiting(store: Store, rows: int) -> Collection:
    """Create a collection of `rows` rows, each with its job."""
    for existing in await store.collections():
        if existing.name == "docs":
            await store.drop_collection(existing, drop_column=True)
    await store.connector.execute("drop table if exists public.docs cascade")
    await store.connector.execute(
        "create unlogged table docs (id bigint primary key, body text not null)"
    )
    step = 1_000_000
    for first in range(1, rows + 1, step):
        last = min(rows, first + step - 1)
        await store.connector.execute(
            f"insert into docs select i, 'Row ' || i from generate_series({first}, {last}) i"
        )
    source = await store.find_table("docs")
    await store.add_collection(
        "docs", source["oid"], key=None, template="{body}", column="embedding",
        model=HashEmbedder(8).model,
    )  # fmt: skip
    docs = await store.collection("docs")
    for first in range(1, rows + 1, step):
        await store.connector.execute(
            "insert into backline.jobs (collection_id, key, priority) "
            f"select {docs.id}, i::text, 1 from generate_series({first}, "
            f"{min(rows, first + step - 1)}) i"
        )
    return docs


# --- all ----------------------------------------------------------------------------------------


async def main(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    url = args.database_url or shared.start(folder)
    only = set(args.only.split(","))
    results: dict[str, Any] = {"machine": f"{platform.machine()}, {platform.python_version()}"}
    async with open_store(url) as store:
        await migrate.apply(store.connector)
        [row] = await store.connector.fetch("select version()")
        results["postgres"] = row["version"].split(" on ")[0]
        if "pipeline" in only:
            results["pipeline"] = await bench_pipeline(store, args.rows, args.rounds)
        if "side" in only:
            results["side"] = await bench_side(store, args.rows, args.rounds)
        if "plain" in only:
            results["plain"] = await bench_plain(store, args.rows // 5, args.rounds)
        if "provider" in only:
            results["provider"] = await bench_provider(store, 20_000)
        if "memory" in only:
            results["memory"] = await bench_memory(store, url, (100_000, args.most_rows))
        if "lag" in only:
            results["lag"] = await bench_lag(store, url, 10_000, 2000)
        if "backlog" in only:
            results["backlog"] = await bench_backlog(store, args.pending)
    return results


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--most-rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pending", type=int, default=10_000_000)
    parser.add_argument("--only", default="pipeline,side,plain,provider,memory,lag")
    parser.add_argument("--database-url")
    return parser.parse_args()


if __name__ == "__main__":
    tune_garbage_collector()  # as the command line does
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "postgres"
        results = asyncio.run(main(parse(), folder))
        shared.stop(folder)
    shared.save(RESULTS, results)
    print(json.dumps(results, indent=2))
