"""Measure how fast vectors that a table holds are adopted.

    .venv/bin/python benchmarks/adopt.py [--rows 200000] [--dimensions 384]

Fills a table on an embedded Postgres with vectors of the hash model, then declares it as
`backline add --adopt` does. Results go to benchmarks/results/adopt.json and to the terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import psycopg

from backline.adoption import adopt
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.embedders.limiter import Limiter
from backline.postgres import embedded, migrate
from backline.postgres.store import open_store

RESULTS = Path(__file__).parent / "results" / "adopt.json"
CHUNK = 5000


async def fill(url: str, rows: int, dimensions: int) -> None:
    """Copy rows with their vectors into the table `docs`."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "create table docs (id bigint primary key, body text, "
            f"embedding extensions.halfvec({dimensions}))"
        )
        async with connection.cursor() as cursor, cursor.copy("copy docs from stdin") as copy:
            for first in range(0, rows, CHUNK):
                numbers = range(first, min(first + CHUNK, rows))
                texts = [
                    f"Document {n} about the wiring of hall {n % 97}, at length." for n in numbers
                ]
                for n, text, vector in zip(
                    numbers, texts, hash_vectors(texts, dimensions), strict=True
                ):
                    await copy.write_row((n, text, str(vector.tolist())))


async def measure(url: str, rows: int, dimensions: int) -> dict[str, float]:
    """Adopt the table, and return seconds and rates."""
    pages: list[tuple[int, float]] = []
    async with open_store(url) as store:
        await migrate.apply(store.connector)
        await fill(url, rows, dimensions)
        table = (await store.find_table("docs"))["oid"]
        began = time.perf_counter()
        done = await adopt(
            store, HashEmbedder(dimensions), Limiter(), "docs", table,
            on_page=lambda seen: pages.append((seen, time.perf_counter())),
            key=None, template="{body}", column="embedding", column_type="halfvec",
            long_text="truncate", published=False, into=None,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        assert done.adopted == rows
    half = len(pages) // 2
    return {
        "rows": rows, "dimensions": dimensions, "seconds": seconds,
        "rows_per_second": rate(pages), "first_half": rate(pages[:half]),
        "second_half": rate(pages[half:]),
    }  # fmt: skip


def rate(pages: list[tuple[int, float]]) -> float:
    """Return the rows a second between the first page and the last."""
    (first, began), (last, ended) = pages[0], pages[-1]
    return (last - first) / (ended - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=384)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="backline-adopt-") as folder:
        url = embedded.start(Path(folder) / "postgres")
        result = asyncio.run(measure(url, arguments.rows, arguments.dimensions))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
