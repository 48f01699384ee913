"""Embeds rows that a request brings, and stores their vectors.

The text of the request is embedded. Postgres compares its hash with the hash of the row's own text
in the statement that writes, so an outdated text never reaches a row.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from backline import errors, pgvector
from backline.postgres.store import Store
from backline.server import reads, schemas
from backline.server.embedder_pool import PooledModel
from backline.server.handlers import milliseconds_since
from backline.server.reads import RowAction, RowState
from backline.store import NewVector
from backline.types import Action, Collection
from backline.worker import batching
from backline.worker.backlog import PendingText, cut_to_fit, too_long

# No registered worker: the rows of a request belong to no job lease.
NO_WORKER: Final = 0
# The characters that collection templates trim; see backline.compile_template.
TRIMMED: Final = " \t\n\r"
BUSY_TRIES: Final = 10
BUSY_PAUSE_SECONDS: Final = 0.02
# The limit of one request to OpenAI.
BUDGET: Final = batching.Budget(max_items=2048)

T = TypeVar("T")
R = TypeVar("R")


@cache
def outcomes() -> Mapping[str, str]:
    """Return the sentence for each reason why a row was skipped; the Edge Function has the same."""
    text = files("backline.data").joinpath("outcomes.json").read_text(encoding="utf-8")
    sentences: dict[str, str] = json.loads(text)
    return sentences


class _SentRow(NamedTuple):
    """A row as it was sent, its text trimmed."""

    id: str
    text: str
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table. `id` is the key as it was sent, `key` as the table writes it."""

    id: str
    key: str
    text: str
    content_hash: bytes
    action: RowAction


class _Write(NamedTuple):
    row: _Row
    action: Action
    element: bytes = pgvector.NULL


@dataclass(slots=True)
class Upsert:
    """Embeds and stores the rows of one request, and collects the outcome of each row."""

    store: Store
    collection: Collection
    pooled: PooledModel
    batch_size: int
    updated: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _long: set[bytes] = field(default_factory=set)  # hashes of texts that exceed the model's limit

    async def run(self, rows: Sequence[schemas.UpsertRow]) -> schemas.Upserted:
        """Store all rows that can be stored.

        Raises:
            EmbedderError: the provider failed, and every row failed with it.
        """
        began = time.perf_counter()
        pending = await self._store_without_embedding(await self._inspect(rows))
        last: errors.EmbedderError | None = None
        for batch in _batches(pending, self.batch_size):
            last = await self._embed_and_store(batch) or last
        if last is not None and len(self.failed) == len(rows):
            raise last
        return self._report(len(rows), began)

    # --- what the rows need ---

    async def _inspect(self, rows: Sequence[schemas.UpsertRow]) -> list[_Row]:
        """Return the existing rows, each once, with what they need."""
        sent = [_sent_row(row) for row in rows]
        valid = [row for row in sent if _is_storable(row.id)]
        self._skip([row.id for row in sent if not _is_storable(row.id)], "gone")
        states = await _in_halves(valid, self._states, _invalid_key)
        existing: dict[str, _Row] = {}
        for row, state in zip(valid, states, strict=True):
            if state.key is None:
                self._skip([row.id], "gone")
            elif state.key not in existing:
                existing[state.key] = _Row(
                    row.id, state.key, row.text, row.content_hash, state.action
                )
            elif existing[state.key].text != row.text:
                self._skip([row.id], "twice")
        return list(existing.values())

    async def _states(self, rows: Sequence[_SentRow]) -> list[RowState]:
        keys, hashes = [row.id for row in rows], [row.content_hash for row in rows]
        return await reads.inspect(self.store, self.collection, keys, hashes)

    async def _store_without_embedding(self, rows: list[_Row]) -> list[_Row]:
        """Store blank rows and rows with a cached vector; returns the rows to embed."""
        self._skip([row.id for row in rows if row.action == "changed"], "changed")
        await self._write([_Write(row, "blank") for row in rows if row.action == "blank"])
        lost = await self._write([_Write(row, "reuse") for row in rows if row.action == "reuse"])
        return [row for row in rows if row.action == "embed"] + lost

    # --- embedding ---

    async def _embed_and_store(self, rows: list[_Row]) -> errors.EmbedderError | None:
        """Embed and store a batch. A rejected batch is halved, so that a text fails alone."""
        try:
            elements = await self._embed(rows)
        except errors.InputRejectedError as error:
            texts = len({row.text for row in rows})
            if texts == 1:
                return self._fail(rows, error)
            halves = [
                await self._embed_and_store(half) for half in _batches(rows, (texts + 1) // 2)
            ]
            return halves[0] or halves[1]
        except errors.EmbedderError as error:
            return self._fail(rows, error)
        await self._write([_Write(row, "embed", elements[row.text]) for row in rows])
        return None

    def _fail(self, rows: Sequence[_Row], error: errors.EmbedderError) -> errors.EmbedderError:
        self.failed |= {row.id: str(error) for row in rows}
        return error

    async def _embed(self, rows: list[_Row]) -> dict[str, bytes]:
        """Embed each distinct text once; returns the vectors in the store's encoding."""
        pending = await asyncio.to_thread(self._pending_texts, rows)
        parts = [part for text in pending for part in (text.windows or [text])]
        plan = batching.plan([part.item for part in parts], BUDGET, sort_by_length=False)
        for batch in plan:
            await self._embed_batch([parts[i] for i in batch])
        self._long |= {text.content_hash for text in pending if text.long}
        by_hash = {text.content_hash: _element(text) for text in pending}
        return {row.text: by_hash[row.content_hash] for row in rows}

    async def _embed_batch(self, parts: Sequence[PendingText]) -> None:
        embedder, limiter = self.pooled.embedder, self.pooled.limiter
        try:
            async with limiter.slot(sum(part.tokens for part in parts)):
                vectors = await embedder.embed([part.text for part in parts])
        except errors.RateLimitedError as error:
            limiter.defer(error.retry_after)
            raise
        for part, vector in zip(parts, np.asarray(vectors), strict=True):
            part.vector = vector

    def _pending_texts(self, rows: list[_Row]) -> list[PendingText]:
        """Return the distinct texts, with long ones cut as the collection declares.

        Raises:
            InputRejectedError: a text is too long, and the collection rejects long texts.
        """
        embedder, long_text = self.pooled.embedder, self.collection.long_text
        hashes = {row.text: row.content_hash for row in rows}
        limit = embedder.model.max_tokens
        texts = [
            PendingText(hashes[text], text, count, long=count > limit)
            for text, count in zip(hashes, embedder.count_tokens(list(hashes)), strict=True)
        ]
        long = [text for text in texts if text.long]
        if long and long_text == "reject":
            raise too_long(long[0], embedder)
        cut_to_fit(long, embedder, long_text)
        return texts

    # --- writing ---

    async def _write(self, writes: list[_Write]) -> list[_Row]:
        """Store rows, retrying locked ones; returns the rows whose cached vector is gone."""
        lost: list[_Row] = []
        for attempt in range(BUSY_TRIES):
            if not writes:
                break
            await asyncio.sleep(BUSY_PAUSE_SECONDS * attempt)
            unwritten = dict(await _in_halves(writes, self._complete, self._refused))
            self.updated += len(writes) - len(unwritten)
            for outcome in ("gone", "changed"):
                keys = {key for key, value in unwritten.items() if value == outcome}
                self._skip([write.row.id for write in writes if write.row.key in keys], outcome)
            lost += [write.row for write in writes if unwritten.get(write.row.key) == "lost"]
            writes = [write for write in writes if unwritten.get(write.row.key) == "busy"]
        self._skip([write.row.id for write in writes], "busy")
        return lost

    async def _complete(self, writes: Sequence[_Write]) -> list[tuple[str, str]]:
        """Store vectors; returns (key, outcome) of the rows that were not written."""
        rows = [
            NewVector(
                row.key, action, row.content_hash, element, long=row.content_hash in self._long
            )
            for row, action, element in writes
        ]
        unwritten = await self.store.complete(
            self.collection, NO_WORKER, None, rows, cache=not self.pooled.embedder.free
        )
        return [(key, outcome) for key, outcome in unwritten]

    def _refused(self, write: _Write, error: errors.RowRefusedError) -> tuple[str, str]:
        self.failed[write.row.id] = str(error)
        return write.row.key, "refused"

    def _skip(self, ids: Sequence[str], reason: str) -> None:
        self.skipped |= dict.fromkeys(ids, outcomes()[reason])

    def _report(self, processed: int, began: float) -> schemas.Upserted:
        return schemas.Upserted(
            success=not self.failed,
            processed=processed,
            updated=self.updated,
            skipped=[schemas.Skipped(id=key, reason=text) for key, text in self.skipped.items()],
            failed=[schemas.Failed(id=key, error=text) for key, text in self.failed.items()],
            dimensions=self.collection.model.dimensions,
            model=str(self.collection.model),
            took_ms=milliseconds_since(began),
        )


async def _in_halves(
    rows: Sequence[T],
    attempt: Callable[[Sequence[T]], Awaitable[list[R]]],
    refused: Callable[[T, errors.RowRefusedError], R],
) -> list[R]:
    """Apply `attempt` to all rows at once, halving them until a refused row stands alone."""
    if not rows:
        return []
    try:
        return await attempt(rows)
    except errors.RowRefusedError as error:
        if len(rows) == 1:
            return [refused(rows[0], error)]
        results = []
        for half in batching.bisect(range(len(rows))):
            results += await _in_halves([rows[i] for i in half], attempt, refused)
        return results


def _invalid_key(_row: _SentRow, _error: errors.RowRefusedError) -> RowState:
    """Return the state of a row whose id has another type than the key, such as a word."""
    return RowState("gone", None)


def _sent_row(row: schemas.UpsertRow) -> _SentRow:
    text = row.text.strip(TRIMMED)
    # A text with half of a surrogate pair gets a hash too, which equals no row's.
    return _SentRow(
        str(row.id), text, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    )


def _element(text: PendingText) -> bytes:
    """Return the vector of a text in the store's encoding: the mean of its parts, if it has any."""
    vector = text.mean() if text.windows else np.asarray(text.vector).reshape(1, -1)
    return pgvector.vector_elements(np.asarray(vector))[0]


def _is_storable(text: str) -> bool:
    """Return whether Postgres can store a text: without NUL and lone surrogates."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _batches(rows: list[_Row], size: int) -> list[list[_Row]]:
    """Cut rows into batches of `size` distinct texts, keeping rows of one text together."""
    by_text: dict[str, list[_Row]] = {}
    for row in rows:
        by_text.setdefault(row.text, []).append(row)
    groups = list(by_text.values())
    return [
        [row for group in groups[start : start + size] for row in group]
        for start in range(0, len(groups), size)
    ]


def status_and_body(upserted: schemas.Upserted) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status, 207 if a row was skipped or failed, and the JSON body."""
    partial_result = bool(upserted.skipped or upserted.failed)
    return (207 if partial_result else 200), upserted.model_dump(mode="json")
