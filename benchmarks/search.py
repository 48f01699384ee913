"""Measure search at 100,000 rows: latency of each leg and its bare SQL, recall, cost of edits.

    .venv/bin/python benchmarks/search.py [--rows 100000] [--queries 300]
        [--corpus FILE.jsonl --questions FILE.jsonl] [--vectors FILE.npz]

Without --corpus, the texts are made of sentences of the shipped advice, and the questions are its
judged ones. The local model embeds the texts, which takes minutes. --vectors keeps the vectors.
Every query runs through every kind of search before the next query, so that a busy moment of the
machine affects all of them. Results go to benchmarks/results/search.json and to the terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import re
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from backline import pgvector, search
from backline.embedders.base import Embedder
from backline.embedders.providers import open_embedder
from backline.postgres import embedded, migrate
from backline.postgres.store import Store, open_store
from backline.search.query import Query, embed_query, rank_rows
from backline.types import Collection

RESULTS = Path(__file__).parent / "results" / "search.json"
DATA = resources.files("backline") / "data"
WARM_UP = 30
Vectors = NDArray[np.float32]
Search = Callable[[str, list[float]], Awaitable[object]]


# --- data -----------------------------------------------------------------------------------------


def read_texts(file: Path, count: int) -> list[str]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]


def made_texts(count: int) -> list[str]:
    """Return texts of two sentences each, drawn from the shipped advice."""
    lines = (DATA / "music_knowledge.jsonl").read_text("utf-8").splitlines()
    sentences = [s for line in lines for s in re.split(r"(?<=\.) ", json.loads(line)["suggestion"])]
    rng = random.Random(1)
    return [" ".join(rng.sample(sentences, 2)) for _ in range(count)]


def kept_vectors(cache: Path | None) -> Vectors:
    if cache is None or not cache.is_file():
        return np.zeros((0, 0), np.float32)
    with np.load(cache) as archive:
        vectors: Vectors = archive["v"]
    return vectors


async def vectors_of(texts: list[str], cache: Path | None, embedder: Embedder) -> Vectors:
    cached = kept_vectors(cache)[: len(texts)]
    if len(cached) == len(texts):
        return cached
    vectors = np.zeros((len(texts), embedder.model.dimensions), np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        vectors[batch] = await embedder.embed([embedder.truncate(texts[i]) for i in batch])
    if cache is not None:
        np.savez(cache, v=vectors)
    return vectors


async def fill(store: Store, texts: list[str], vectors: Vectors, embedder: Embedder) -> Collection:
    """Create a table of the texts with vectors and stamps, as after a backfill."""
    await migrate.apply(store.connector)
    await store.connector.execute("create table docs (id bigint primary key, body text not null)")
    table = await store.find_table("docs")
    await store.add_collection(
        "docs", table["oid"], key=None, template="{body}", column="embedding", model=embedder.model
    )
    collection = await store.collection("docs")
    # Vectors are loaded directly, because benchmarks/engine.py measures filling.
    await store.connector.execute("alter table docs disable trigger user")
    with psycopg.connect(store.connector.conninfo, autocommit=True) as connection:
        with connection.cursor().copy("copy docs (id, body, embedding) from stdin") as copy:
            for n, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
                copy.write_row((n, text, str(vector.tolist())))
        connection.execute("alter table docs enable trigger user")
        connection.execute(
            "insert into backline.stamps (collection_id, key, model_id, content_hash) "
            "select %s, id::text, %s, '' from docs", [collection.id, collection.model_id],
        )  # fmt: skip
        connection.execute(
            "update backline.keyword_indexes set built_at = null where collection_id = %s",
            [collection.id],
        )
        connection.execute("vacuum analyze docs")
        connection.execute("vacuum analyze backline.stamps")
    return collection


# --- measuring ------------------------------------------------------------------------------------


def quantiles(milliseconds: list[float]) -> dict[str, float]:
    return {
        name: round(float(np.percentile(milliseconds, q)), 2)
        for name, q in (("p50", 50), ("p90", 90), ("p99", 99))
    }


def searches(
    store: Store, collection: Collection, bare: psycopg.AsyncConnection[Any]
) -> dict[str, Search]:
    """Return every kind of search by name. Each takes a text and its vector."""
    half = f"extensions.halfvec({collection.model.dimensions})"  # the indexed expression

    async def bare_dense(_text: str, vector: list[float]) -> object:
        cursor = await bare.execute(
            f"select id from docs order by (embedding::{half}) operator(extensions.<=>) "
            f"%s::real[]::{half} limit 10", [pgvector.reals(vector)],
        )  # fmt: skip
        return await cursor.fetchall()

    async def bare_keyword(text: str, _vector: list[float]) -> object:
        cursor = await bare.execute(
            "select * from backline.keyword_candidates(%s, %s, 10)", [collection.id, text]
        )
        return await cursor.fetchall()

    async def bare_ts_rank(text: str, _vector: list[float]) -> object:
        cursor = await bare.execute(
            "select id from docs, (select string_agg(quote_literal(lexeme), ' | ')::tsquery as q "
            "from unnest(to_tsvector('english', %s))) t where to_tsvector('english', body) @@ q "
            "order by ts_rank(to_tsvector('english', body), q) desc limit 10", [text],
        )  # fmt: skip
        return await cursor.fetchall()

    def through(mode: search.Mode) -> Search:
        async def run(text: str, vector: list[float]) -> object:
            compared = None if mode == "keyword" else vector
            return await rank_rows(store, collection, Query(text, mode), text, compared)

        return run

    return {
        "dense, bare SQL": bare_dense,
        "semantic": through("semantic"),
        "BM25, bare SQL": bare_keyword,
        "keyword": through("keyword"),
        "ts_rank and GIN, bare SQL": bare_ts_rank,
        "hybrid": through("hybrid"),
    }


async def measure(
    store: Store, collection: Collection, embedder: Embedder, questions: list[str]
) -> dict[str, Any]:
    times: dict[str, list[float]] = {"embedding a query": [], "hybrid with embedding": []}
    bare = await psycopg.AsyncConnection.connect(store.connector.conninfo, autocommit=True)
    await bare.execute("set jit = off")
    await bare.execute("set hnsw.ef_search = 200")
    for n, text in enumerate(questions[:WARM_UP] + questions):
        began = time.perf_counter()
        vector = await embed_query(collection, embedder, text)
        spent = {"embedding a query": time.perf_counter() - began}
        for name, action in searches(store, collection, bare).items():
            if name.startswith("ts_rank") and n % 10:
                continue
            began = time.perf_counter()
            await action(text, vector)
            spent[name] = time.perf_counter() - began
        spent["hybrid with embedding"] = spent["embedding a query"] + spent["hybrid"]
        if n >= WARM_UP:
            for name, seconds in spent.items():
                times.setdefault(name, []).append(1000 * seconds)
    await bare.close()
    return {name: quantiles(values) for name, values in times.items()}


async def edits(store: Store, texts: list[str]) -> dict[str, float]:
    """Return milliseconds per committed edit, with the keyword index's triggers and without."""
    results: dict[str, float] = {}
    await store.connector.execute("create table bare (id bigint primary key, body text not null)")
    for name, table in (("one row, bare table", "bare"), ("one row, indexed", "docs")):
        spent = []
        for n in range(200):
            began = time.perf_counter()
            await store.connector.execute(
                f"insert into {table} (id, body) values (%s, %s)", [10_000_000 + n, texts[n]]
            )
            spent.append(1000 * (time.perf_counter() - began))
        results[name] = round(float(np.median(spent)), 2)
    for name, table in (("10,000 rows, bare table", "bare"), ("10,000 rows, indexed", "docs")):
        began = time.perf_counter()
        await store.connector.execute(
            f"insert into {table} (id, body) select 20000000 + n, b from "
            "unnest(%s::text[]) with ordinality u(b, n)", [texts[:10_000]],
        )  # fmt: skip
        results[name] = round(1000 * (time.perf_counter() - began), 1)
    return results


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    embedder = await open_embedder("local")
    texts = (
        read_texts(arguments.corpus, arguments.rows)
        if arguments.corpus
        else made_texts(arguments.rows)
    )
    questions = read_texts(
        arguments.questions or Path(str(DATA / "music_questions" / "queries.jsonl")),
        arguments.queries,
    )
    vectors = await vectors_of(texts, arguments.vectors, embedder)
    with tempfile.TemporaryDirectory(prefix="backline-bench-") as folder:
        async with open_store(embedded.start(Path(folder) / "postgres")) as store:
            collection = await fill(store, texts, vectors, embedder)
            # Correct the counters: the rows were loaded without triggers.
            await store.recount(collection.id)
            indexes = await search.ensure_index(store, collection)
            recall = await search.recall(store, collection, 200)
            await store.connector.execute(
                "create index docs_gin on docs using gin (to_tsvector('english', body))"
            )
            latency = await measure(store, collection, embedder, questions)
            await store.connector.execute("drop index docs_gin")
            written = await edits(store, texts)
            [size] = await store.connector.fetch(
                "select pg_total_relation_size('backline.postings') >> 20 as postings, "
                "pg_relation_size(to_regclass('docs_embedding_hnsw')) >> 20 as hnsw, "
                "pg_total_relation_size('docs') >> 20 as docs"
            )
    await embedder.aclose()
    return {
        "machine": f"{platform.machine()}, {platform.python_version()}",
        "corpus": arguments.corpus.name if arguments.corpus else "sentences of the shipped advice",
        "rows": len(texts), "queries": len(questions),
        "index": {
            "hnsw_seconds": round(indexes.vectors.seconds, 1),
            "keyword_seconds": round(indexes.keywords.seconds, 1),
            "megabytes": dict(size),
        },
        "recall@10": asdict(recall),
        "latency_ms": latency,
        "edit_ms": written,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--vectors", type=Path)
    results = asyncio.run(run(parser.parse_args()))
    RESULTS.parent.mkdir(exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    kept[results["corpus"]] = results
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
