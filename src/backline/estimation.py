"""What a backfill would take, without enqueuing, embedding or spending anything."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from backline.embedders.base import Embedder
from backline.store import JobStore, ScannedRow
from backline.types import Collection, LongText

PAGE: Final = 1000
SAMPLE: Final = 64

# Dollars a million tokens, https://platform.openai.com/docs/pricing, standard tier.
PRICES: Final = {
    "text-embedding-3-small": 0.02,
    "text-embedding-3-large": 0.13,
    "text-embedding-ada-002": 0.10,
}


@dataclass(frozen=True, slots=True)
class Preview:
    """The cost of a backfill. `dollars` is None where the price is not known."""

    collection: str
    model: str
    rows: int
    due: int
    unique: int
    duplicates: int
    cached: int
    tokens: int
    long: int
    long_text: str
    dollars: float | None
    seconds: float | None
    time_basis: str


async def estimate(store: JobStore, collection: Collection, embedder: Embedder) -> Preview:
    """Scan the whole table and add up what is due."""
    rows = due = cached = tokens = long = 0
    seen: set[bytes] = set()
    sample: list[str] = []
    after: str | None = None
    while True:
        page = await store.scan_page(collection, after, PAGE)
        wanted = [row for row in page if row.due and row.content]
        fresh = _first_seen([row for row in wanted if not row.cached], seen)
        counts = await asyncio.to_thread(embedder.count_tokens, [row.content for row in fresh])
        most = embedder.model.max_tokens
        rows, due = rows + len(page), due + len(wanted)
        cached += sum(row.cached for row in wanted)
        tokens += sum(_paid(count, most, collection.long_text) for count in counts)
        long += sum(count > most for count in counts)
        sample.extend(row.content for row in fresh[: SAMPLE - len(sample)])
        if len(page) < PAGE:
            break
        after = page[-1].key
    seconds, basis = await _time(store, collection, embedder, sample, len(seen))
    price = 0.0 if collection.model.provider != "openai" else PRICES.get(collection.model.name)
    return Preview(
        collection=collection.name,
        model=str(collection.model),
        rows=rows,
        due=due,
        unique=len(seen),
        duplicates=due - cached - len(seen),
        cached=cached,
        tokens=tokens,
        long=long,
        long_text=collection.long_text,
        dollars=None if price is None else price * tokens / 1e6,
        seconds=seconds,
        time_basis=basis,
    )


def _paid(tokens: int, most: int, long_text: LongText) -> int:
    """The tokens of a text that are sent, where the model reads `most` of them."""
    if tokens <= most or long_text == "average":
        return tokens
    return most if long_text == "truncate" else 0


def _first_seen(rows: list[ScannedRow], seen: set[bytes]) -> list[ScannedRow]:
    """The rows whose text none before had; `seen` grows by their hashes."""
    found = []
    for row in rows:
        if row.content_hash not in seen:
            seen.add(row.content_hash)
            found.append(row)
    return found


async def _time(
    store: JobStore, collection: Collection, embedder: Embedder, sample: list[str], texts: int
) -> tuple[float | None, str]:
    """An estimate, and what it rests on: an earlier run, or a sample where that costs nothing."""
    if texts == 0:
        return 0.0, "nothing to embed"
    for run in await store.runs(collection):
        if run.state == "completed" and run.embedded - run.reused >= SAMPLE and run.seconds > 0:
            rate = (run.embedded - run.reused) / run.seconds
            return texts / rate, f"at the {rate:,.0f} rows/s of run {run.id}"
    if embedder.model.provider == "openai":
        return None, "no earlier run to judge by"
    began = time.perf_counter()
    await embedder.embed(sample)
    rate = len(sample) / (time.perf_counter() - began)
    return texts / rate, f"at the {rate:,.0f} texts/s of a sample of {len(sample)}"
