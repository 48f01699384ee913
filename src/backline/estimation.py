"""Estimate the cost of a backfill. Enqueues nothing and pays for nothing."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from backline.embedders import registry
from backline.embedders.base import Embedder
from backline.embedders.providers import waits_on_network
from backline.store import JobStore, ScannedRow
from backline.types import Collection, LongText
from backline.worker.backlog import PendingText
from backline.worker.batch_handler import EmbedBatches

PAGE: Final = 1000
SAMPLE: Final = 64


@dataclass(frozen=True, slots=True)
class Preview:
    """The cost of a backfill.

    Attributes:
        rows: rows of the table, of which `due` need embedding.
        unique: distinct texts to embed.
        duplicates: due rows with the text of another row.
        cached: due rows with a vector in the cache.
        tokens: tokens to embed.
        long: texts that are longer than the model reads.
        dollars: the price; None if it is not known.
        seconds: the duration; None if it is not known.
        time_basis: what `seconds` is calculated from.
    """

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


async def estimate(
    store: JobStore, collection: Collection, embedder: Embedder, *, every_row: bool = False
) -> Preview:
    """Scan the whole table and add up the due rows, or with `every_row` all of them."""
    rows = due = cached = tokens = long = 0
    seen: set[bytes] = set()
    sample: list[str] = []
    after: str | None = None
    while True:
        page = await store.scan_page(collection, after, PAGE)
        if every_row:
            page = [replace(row, due=True, cached=False) for row in page]
        to_fill = [row for row in page if row.due and row.content]
        new = _distinct([row for row in to_fill if not row.cached], seen)
        counts = await asyncio.to_thread(_count, embedder, collection, [row.content for row in new])
        max_tokens = sys.maxsize if collection.splitting else embedder.model.max_tokens
        rows, due = rows + len(page), due + len(to_fill)
        cached += sum(row.cached for row in to_fill)
        tokens += sum(_paid(count, max_tokens, collection.long_text) for count in counts)
        long += sum(count > max_tokens for count in counts)
        sample.extend(row.content for row in new[: SAMPLE - len(sample)])
        if len(page) < PAGE:
            break
        after = page[-1].key
    seconds, basis = await _time(store, collection, embedder, sample, len(seen))
    price = registry.price(collection.model.provider, collection.model.name)
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


def _count(embedder: Embedder, collection: Collection, texts: Sequence[str]) -> list[int]:
    """Return the tokens of each text, or of its passages together."""
    pending = [PendingText(b"", text) for text in texts]
    if collection.splitting is None:
        return embedder.count_tokens(texts)
    EmbedBatches(embedder).prepare(pending, collection)
    return [text.tokens for text in pending]


def _paid(tokens: int, max_tokens: int, long_text: LongText) -> int:
    """Return how many tokens of a text are sent to a model that reads `max_tokens`."""
    if tokens <= max_tokens or long_text == "average":
        return tokens
    return max_tokens if long_text == "truncate" else 0


def _distinct(rows: list[ScannedRow], seen: set[bytes]) -> list[ScannedRow]:
    """Return the first row of each text that is not in `seen`, and add its hash to `seen`."""
    distinct = []
    for row in rows:
        if row.content_hash not in seen:
            seen.add(row.content_hash)
            distinct.append(row)
    return distinct


async def _time(
    store: JobStore, collection: Collection, embedder: Embedder, sample: list[str], texts: int
) -> tuple[float | None, str]:
    """Return the seconds and their basis: an earlier run, or a sample if embedding is free."""
    if texts == 0:
        return 0.0, "nothing to embed"
    name = f"{embedder.model.provider}/{embedder.model.name}"
    for run in await store.runs(collection):
        if run.model != name or run.state != "completed":
            continue
        if run.embedded - run.reused >= SAMPLE and run.seconds > 0:
            rate = (run.embedded - run.reused) / run.seconds
            return texts / rate, f"at the {rate:,.0f} rows/s of run {run.id}"
    if waits_on_network(embedder.model):
        return None, "no earlier run to calculate it from"
    started = time.perf_counter()
    await embedder.embed(sample)
    rate = len(sample) / (time.perf_counter() - started)
    return texts / rate, f"at the {rate:,.0f} texts/s of a sample of {len(sample)}"
