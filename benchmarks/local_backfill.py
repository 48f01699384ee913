"""Measure a whole backfill with the local model, as a share of the encoder's own rate.

    .venv/bin/python benchmarks/local_backfill.py CORPUS.jsonl [CORPUS.jsonl …] [--rounds 3]

A corpus is a JSONL file with the fields "_id", "title" and "text", as in BEIR. Each round backfills
a new table of its rows. Before and after it, one call of the encoder embeds every text, and the
round is compared with the mean of the two calls, because a machine's speed drifts by more than the
effect. The share is the median over the rounds. Results go to
benchmarks/results/local_backfill.json and to the terminal. --more adds rounds to existing results.

The faster the encoder, the larger the share of Postgres and the worker. --layers 2 keeps two of the
model's six layers. That is as fast as the whole model on a processor with AMX, which multiplies
bfloat16 three times as fast as one with AVX-512 BF16 alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from backline.backfill import Backfill
from backline.cli.entry import tune_garbage_collector
from backline.embedders.limiter import Limiter
from backline.embedders.local import LocalEmbedder, find_model, load
from backline.embedders.local.bert import read_bert
from backline.embedders.local.catalog import TOKENIZER_FILE
from backline.embedders.local.cpus import usable_cpus
from backline.embedders.local.engines.select import start_engine
from backline.embedders.local.weights import find_weights
from backline.postgres import embedded, migrate
from backline.postgres.store import Store, open_store
from backline.types import Collection
from backline.verification import verify
from backline.wiring import LOCAL_BATCH_SIZE, LOCAL_BUDGET
from backline.worker.options import LARGEST_CLAIM, WorkerOptions

# As the command line does for local models.
OPTIONS = WorkerOptions(ahead=LARGEST_CLAIM, batch_size=LOCAL_BATCH_SIZE, budget=LOCAL_BUDGET)
RESULTS = Path(__file__).parent / "results" / "local_backfill.json"
WARM_UP = 512


def documents(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row["_id"], f"{row['title']} {row['text']}".strip()) for row in rows]


async def collection(
    store: Store, rows: list[tuple[str, str]], embedder: LocalEmbedder
) -> Collection:
    """Create the collection `docs` of `rows` again, without vectors."""
    for existing in await store.collections():
        await store.drop_collection(existing, drop_column=False)
    await store.connector.execute("drop table if exists docs")
    await store.connector.execute(
        "truncate backline.vectors"
    )  # or the cache would make the second round free
    await store.connector.execute("create table docs (id text primary key, body text not null)")
    async with store.connector.transaction() as transaction:
        await transaction.execute(
            "insert into docs select * from unnest(%(keys)s::text[], %(texts)s::text[])",
            {"keys": [key for key, _ in rows], "texts": [text for _, text in rows]},
        )
    await store.connector.execute("vacuum analyze docs")
    source = await store.find_table("docs")
    await store.add_collection(
        "docs", source["oid"], key=None, template="{body}", column="embedding", model=embedder.model
    )
    return await store.collection("docs")


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds of wall time, of this process's processor time and of Postgres's.

    On a machine with other load, processor time is the more stable measure.
    """

    wall: float
    own: float
    postgres: float

    @staticmethod
    def now(postmaster: psutil.Process) -> Clock:
        ended = postmaster.cpu_times()
        spent = ended.children_user + ended.children_system
        for server in postmaster.children():
            with suppress(psutil.Error):
                times = server.cpu_times()
                spent += times.user + times.system
        return Clock(time.perf_counter(), time.process_time(), spent)

    def __sub__(self, earlier: Clock) -> Clock:
        return Clock(
            self.wall - earlier.wall, self.own - earlier.own, self.postgres - earlier.postgres
        )

    def __add__(self, other: Clock) -> Clock:
        return Clock(self.wall + other.wall, self.own + other.own, self.postgres + other.postgres)


async def alone(
    postmaster: psutil.Process, embedder: LocalEmbedder, rows: list[tuple[str, str]]
) -> Clock:
    """Time the encoder on all distinct texts, as a backfill embeds them."""
    texts = list({text for _, text in rows})
    began = Clock.now(postmaster)
    await embedder.embed(texts)
    return Clock.now(postmaster) - began


async def filled(
    store: Store,
    postmaster: psutil.Process,
    embedder: LocalEmbedder,
    rows: list[tuple[str, str]],
) -> Clock:
    """Time a backfill of a new table."""
    declared = await collection(store, rows, embedder)
    await store.connector.execute("checkpoint")
    began = Clock.now(postmaster)
    report = await Backfill(
        store, declared, embedder, Limiter(max_concurrency=2), OPTIONS, build_index=False
    ).run()
    whole = Clock.now(postmaster) - began
    if report.embedded != len(rows) or not (await verify(store, declared)).passed:
        raise SystemExit(f"the backfill is incomplete: {report.as_dict()}")
    return whole


async def measured(
    store: Store,
    postmaster: psutil.Process,
    embedder: LocalEmbedder,
    rows: list[tuple[str, str]],
    rounds: int,
) -> list[dict[str, float]]:
    results = []
    before = await alone(postmaster, embedder, rows)
    for _ in range(rounds):
        whole = await filled(store, postmaster, embedder, rows)
        after = await alone(postmaster, embedder, rows)
        results.append(shares(before + after, whole))
        before = after
    return results


def shares(twice: Clock, whole: Clock) -> dict[str, float]:
    """Return one round as a share of the mean of the encoder's two calls."""
    return {
        "encoder_s": twice.wall / 2,
        "backfill_s": whole.wall,
        "share": twice.wall / 2 / whole.wall,
        "encoder_cpu_s": twice.own / 2,
        "backfill_cpu_s": whole.own,
        "postgres_cpu_s": whole.postgres,
        "cpu_share": twice.own / 2 / (whole.own + whole.postgres),
    }


def encoder(layers: int | None) -> LocalEmbedder:
    """Open the default model, or its first `layers` layers."""
    info = find_model("all-MiniLM-L6-v2")
    folder = find_weights(info)
    bert = read_bert(folder, info.pooling)
    engine = start_engine("auto", replace(bert, layers=bert.layers[:layers]), usable_cpus())
    tokenizer = load.open_tokenizer(folder / TOKENIZER_FILE, info.max_tokens)
    return LocalEmbedder(info, engine, tokenizer)


async def measure(
    paths: list[Path], rounds: int, layers: int | None, results: dict[str, Any]
) -> dict[str, Any]:
    """Measure `rounds` rounds per corpus and add them to `results`."""
    embedder = encoder(layers)
    info = embedder.info()
    machine = {
        "processor": processor(),
        "python": platform.python_version(),
        "engine": f"{info.engine} {info.precision}",
        "threads": info.threads,
    }
    if results and results.get("machine") != machine:
        raise SystemExit(f"the existing results are from another machine than {machine}")
    results["machine"] = machine
    with tempfile.TemporaryDirectory(prefix="backline-bench-") as folder:
        url = embedded.start(Path(folder) / "pg")
        pid = (Path(folder) / "pg" / "postmaster.pid").read_text().split()[0]
        postmaster = psutil.Process(int(pid))
        async with open_store(url) as store:
            await migrate.apply(store.connector)
            for path in paths:
                rows = documents(path)
                await embedder.embed([text for _, text in rows[:WARM_UP]])
                name = path.parent.name + (f", {layers} layers" if layers else "")
                taken = results.get(name, {}).get("rounds", [])
                taken += await measured(store, postmaster, embedder, rows, rounds)
                results[name] = summary(embedder, rows, taken)
    return results


def summary(
    embedder: LocalEmbedder, rows: list[tuple[str, str]], taken: list[dict[str, float]]
) -> dict[str, Any]:
    limit = embedder.model.max_tokens
    tokens = sum(min(limit, n) for n in embedder.count_tokens([text for _, text in rows]))
    seconds = statistics.median(each["backfill_s"] for each in taken)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "rows_per_s": len(rows) / seconds,
        "tokens_per_s": tokens / seconds,
        "share_of_encoder": statistics.median(each["share"] for each in taken),
        "cpu_share_of_encoder": statistics.median(each["cpu_share"] for each in taken),
        "cpu_us_a_row": cpu_a_row(taken, len(rows)),
        "rounds": taken,
    }


def cpu_a_row(taken: list[dict[str, float]], rows: int) -> dict[str, float]:
    """Return microseconds of processor time per row. The worker's part excludes the encoder."""
    spent = {
        "encoder": [each["encoder_cpu_s"] for each in taken],
        "worker": [each["backfill_cpu_s"] - each["encoder_cpu_s"] for each in taken],
        "postgres": [each["postgres_cpu_s"] for each in taken],
    }
    return {part: 1e6 * statistics.median(seconds) / rows for part, seconds in spent.items()}


def processor() -> str:
    """Return the processor's name and its bfloat16 features, as far as Linux reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    fields = {key.strip(): text for key, _, text in (line.partition(": ") for line in lines)}
    flags = fields.get("flags", "").split()
    kinds = [kind for kind in ("avx512_bf16", "amx_bf16") if kind in flags]
    return " ".join([fields.get("model name", "unknown"), *kinds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="of the model (default: all)")
    parser.add_argument("--more", action="store_true", help="add to the existing results")
    args = parser.parse_args()
    tune_garbage_collector()  # as the command line does
    earlier = json.loads(RESULTS.read_text(encoding="utf-8")) if args.more else {}
    results = asyncio.run(measure(args.corpus, args.rounds, args.layers, earlier))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
