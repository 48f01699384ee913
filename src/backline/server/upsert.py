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
from backline.embedders.limiter import limited_call
from backline.postgres.store import Store
from backline.server import reads, schemas
from backline.server.embedder_pool import PooledModel
from backline.server.handlers import milliseconds_since
from backline.server.reads import RowAction, RowState
from backline.store import NewPassage, NewVector
from backline.types import Action, Collection
from backline.worker import batching
from backline.worker.backlog import PendingText
from backline.worker.batch_handler import EmbedBatches
from backline.worker.known import keep_known

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
    """Return the sentence for each reason to skip a row. The Edge Function uses the same file."""
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
    long: bool = False
    passages: tuple[NewPassage, ...] = ()


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
    _rows: dict[bytes, list[_Row]] = field(default_factory=dict)  # to embed, by the text's hash

    async def run(self, rows: Sequence[schemas.UpsertRow]) -> schemas.Upserted:
        """Store all rows that can be stored.

        Raises:
            EmbedderError: the provider failed, and every row failed with it.
        """
        began = time.perf_counter()
        for row in await self._store_without_embedding(await self._inspect(rows)):
            self._rows.setdefault(row.content_hash, []).append(row)
        texts = [PendingText(key, same[0].text) for key, same in self._rows.items()]
        last: errors.EmbedderError | None = None
        for start in range(0, len(texts), self.batch_size):
            last = await self._embed_and_store(texts[start : start + self.batch_size]) or last
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
        """Store blank rows and rows with a cached vector. Returns the rows to embed."""
        self._skip([row.id for row in rows if row.action == "changed"], "changed")
        await self._write([_Write(row, "blank") for row in rows if row.action == "blank"])
        lost = await self._write([_Write(row, "reuse") for row in rows if row.action == "reuse"])
        return [row for row in rows if row.action == "embed"] + lost

    # --- embedding ---

    async def _embed_and_store(self, texts: list[PendingText]) -> errors.EmbedderError | None:
        """Cut or reject long texts, and embed and store the others. Returns the last error."""
        prepare = EmbedBatches(self.pooled.embedder).prepare
        await asyncio.to_thread(prepare, texts, self.collection)
        split = [
            (text, [row.key for row in self._rows[text.content_hash]])
            for text in texts
            if text.passages
        ]
        await keep_known(self.store, self.collection, split)
        last: errors.EmbedderError | None = None
        for text in texts:
            if text.rejection is not None:
                last = self._fail([text], errors.InputRejectedError(text.rejection.error))
        accepted = [text for text in texts if text.rejection is None]
        return await self._embed_in_halves(accepted) or last

    async def _embed_in_halves(self, texts: list[PendingText]) -> errors.EmbedderError | None:
        """Embed and store texts, halving a rejected batch until a rejected text stands alone."""
        if not texts:
            return None
        try:
            await self._embed(texts)
        except errors.InputRejectedError as error:
            if len(texts) == 1:
                return self._fail(texts, error)
            errors_of_halves = [
                await self._embed_in_halves([texts[i] for i in half])
                for half in batching.bisect(range(len(texts)))
            ]
            return errors_of_halves[0] or errors_of_halves[1]
        except errors.EmbedderError as error:
            return self._fail(texts, error)
        lost = await self._write([write for text in texts for write in self._writes(text)])
        self._skip([row.id for row in lost], "busy")
        return None

    def _fail(
        self, texts: Sequence[PendingText], error: errors.EmbedderError
    ) -> errors.EmbedderError:
        for text in texts:
            self.failed |= {row.id: str(error) for row in self._rows[text.content_hash]}
        return error

    async def _embed(self, texts: Sequence[PendingText]) -> None:
        """Set the vector of each text, or of each of its parts."""
        embedder, limiter = self.pooled.embedder, self.pooled.limiter
        parts = [part for text in texts for part in text.to_embed]
        plan = batching.plan([part.item for part in parts], BUDGET, sort_by_length=False)
        for batch in [[parts[i] for i in indices] for indices in plan]:
            tokens = sum(part.tokens for part in batch)
            async with limited_call(limiter, tokens, interactive=True):
                vectors = await embedder.embed([part.text for part in batch])
            for part, vector in zip(batch, np.asarray(vectors), strict=True):
                part.vector = vector
                part.encoded = pgvector.vector_elements(vector.reshape(1, -1))[0]

    def _writes(self, text: PendingText) -> list[_Write]:
        element = _element(text)
        rows = self._rows[text.content_hash]
        passages = tuple(passage.new for passage in text.passages)
        return [_Write(row, "embed", element, text.long, passages) for row in rows]

    # --- writing ---

    async def _write(self, writes: list[_Write]) -> list[_Row]:
        """Store rows, retrying locked ones. Returns the rows that lost their cached vector."""
        lost: list[_Row] = []
        for attempt in range(BUSY_TRIES):
            if not writes:
                break
            await asyncio.sleep(BUSY_PAUSE_SECONDS * attempt)
            unwritten = dict(await _in_halves(writes, self._complete, self._refused))
            self.updated += len(writes) - len(unwritten)
            for outcome in ("gone", "changed", "unstable"):
                keys = {key for key, value in unwritten.items() if value == outcome}
                self._skip([write.row.id for write in writes if write.row.key in keys], outcome)
            lost += [write.row for write in writes if unwritten.get(write.row.key) == "lost"]
            writes = [write for write in writes if unwritten.get(write.row.key) == "busy"]
        self._skip([write.row.id for write in writes], "busy")
        return lost

    async def _complete(self, writes: Sequence[_Write]) -> list[tuple[str, str]]:
        """Store vectors. Returns (key, outcome) of the rows that were not written."""
        rows = [
            NewVector(row.key, action, row.content_hash, element, None, long, passages)
            for row, action, element, long, passages in writes
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
            collection=self.collection.name,
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
    """Return the state for an id of another type than the key, such as a word for a number."""
    return RowState("gone", None)


def _sent_row(row: schemas.UpsertRow) -> _SentRow:
    text = row.text.strip(TRIMMED)
    # A text with half of a surrogate pair gets a hash too, which equals no row's.
    return _SentRow(
        str(row.id), text, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    )


def _element(text: PendingText) -> bytes:
    """Return the vector of a text in the store's encoding: the mean of its parts, if it has any."""
    if text.passages:  # which have the vectors
        return pgvector.NULL
    vector = text.mean() if text.parts else np.asarray(text.vector).reshape(1, -1)
    return pgvector.vector_elements(np.asarray(vector))[0]


def _is_storable(text: str) -> bool:
    """Return whether Postgres can store a text: without NUL and lone surrogates."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def status_and_body(upserted: schemas.Upserted) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status, 207 if a row was skipped or failed, and the JSON body."""
    partial_result = bool(upserted.skipped or upserted.failed)
    return (207 if partial_result else 200), upserted.model_dump(mode="json")
