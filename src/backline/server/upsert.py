"""Embeds rows that a caller sends, and stores them by the guarded protocol of every other writer.

The text that was sent is what is embedded, and it is stored only where the row's own text is the
same: Postgres compares the hashes in the very statement that writes. So a caller who sends
yesterday's text, or a row that there is not, changes nothing and is told so.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from backline import errors, pgvector
from backline.postgres.store import Store
from backline.server import reads, schemas
from backline.server.embedder_pool import Opened
from backline.server.handlers import took
from backline.store import NewVector
from backline.types import Action, Collection
from backline.worker import batching
from backline.worker.backlog import PendingText, cut_to_fit, too_long

# No worker has this number: the rows of a request are nobody's jobs.
NOBODY: Final = 0
# What the templates of collections trim; see backline.compile_template.
TRIMMED: Final = " \t\n\r"
BUSY_TRIES: Final = 10

REASONS: Final = {
    "gone": "There is no row with this id.",
    "changed": "The row's text is another one than was sent; send the text that the table has.",
    "busy": "Somebody's open transaction holds the row; send it again later.",
    "twice": "This id came before in the same request; only its first text counts.",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """A row to store. `id` is as it was sent, `key` as the table writes it: '7' for '007'."""

    id: str
    key: str
    text: str
    content_hash: bytes


@dataclass(slots=True)
class Upsert:
    """One request's rows on their way; `updated`, `skipped`, `failed` are what became of them."""

    store: Store
    collection: Collection
    opened: Opened
    batch_size: int
    updated: int = 0
    unchanged: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _long: set[bytes] = field(default_factory=set)  # hashes of texts longer than the model reads

    async def run(self, rows: Sequence[schemas.UpsertRow]) -> schemas.Upserted:
        """Store what can be stored.

        Raises:
            EmbedderError: the provider failed, and not one row came to anything.
        """
        began = time.perf_counter()
        missing = await self._without_work(await self._known(rows))
        last: errors.EmbedderError | None = None
        for batch in _cut(missing, self.batch_size):
            last = await self._embed(batch) or last
        if last is not None and len(self.failed) == len(rows):
            raise last
        return self._report(len(rows), began)

    async def _known(self, rows: Sequence[schemas.UpsertRow]) -> list[_Row]:
        """The rows that there are, each once."""
        keys = await self._keys(list(dict.fromkeys(str(row.id) for row in rows)))
        found: dict[str, _Row] = {}
        for row in rows:
            given, text = str(row.id), row.text.strip(TRIMMED)
            key = keys.get(given)
            if key is None:
                self.skipped[given] = REASONS["gone"]
            elif not _is_storable(text):
                self.skipped[given] = REASONS["changed"]
            elif key not in found:
                found[key] = _Row(given, key, text, hashlib.sha256(text.encode()).digest())
            elif found[key].text != text:
                self.skipped[given] = REASONS["twice"]
        return list(found.values())

    async def _keys(self, given: list[str]) -> dict[str, str]:
        """The keys of those rows that there are, by their ids as sent.

        An id that is none of the key's type, such as a word where numbers are, is found by halving.
        """
        given = [each for each in given if _is_storable(each)]
        if not given:
            return {}
        try:
            return await reads.keys_of(self.store, self.collection, given)
        except errors.RowRefusedError:
            if len(given) == 1:
                return {}
            left, right = batching.bisect(range(len(given)))
            return await self._keys([given[i] for i in left]) | await self._keys(
                [given[i] for i in right]
            )

    async def _without_work(self, rows: list[_Row]) -> list[_Row]:
        """Settle what needs no embedding; returns the rows that need it.

        A text that is stamped is stored already; one that was paid for before is stored from the
        cache; and what is gone or different is known before anything is spent.
        """
        stamped = await reads.stamped(self.store, self.collection, [row.key for row in rows])
        rest = [row for row in rows if stamped.get(row.key) != row.content_hash]
        self.unchanged = len(rows) - len(rest)
        blank = [row for row in rest if not row.text]
        await self._write(blank, "blank", [pgvector.NULL] * len(blank))
        texts = [row for row in rest if row.text]
        return await self._write(texts, "reuse", [pgvector.NULL] * len(texts))

    async def _embed(self, rows: list[_Row]) -> errors.EmbedderError | None:
        """Embed and store a batch; a text that is rejected harms its own row alone."""
        try:
            elements = await self._elements(rows)
        except errors.InputRejectedError as error:
            texts = len({row.text for row in rows})
            if texts == 1:
                self.failed |= {row.id: str(error) for row in rows}
                return error
            halves = [await self._embed(half) for half in _cut(rows, (texts + 1) // 2)]
            return halves[0] or halves[1]
        except errors.EmbedderError as error:
            self.failed |= {row.id: str(error) for row in rows}
            return error
        await self._write(rows, "embed", elements)
        return None

    async def _elements(self, rows: list[_Row]) -> list[bytes]:
        """The vectors of rows, each distinct text embedded once, in the store's form."""
        embedder, limiter = self.opened.embedder, self.opened.limiter
        units = await asyncio.to_thread(self._units, rows)
        parts = [part for unit in units.values() for part in (unit.parts or [unit])]
        plan = batching.plan(
            [part.item for part in parts], batching.Budget(max_items=2048), sort_by_length=False
        )
        for batch in plan:
            texts = [parts[i].text for i in batch]
            try:
                async with limiter.slot(sum(parts[i].tokens for i in batch)):
                    vectors = await embedder.embed(texts)
            except errors.RateLimitedError as error:
                limiter.defer(error.retry_after)
                raise
            for i, vector in zip(batch, np.asarray(vectors), strict=True):
                parts[i].vector = vector
        self._long |= {row.content_hash for row in rows if units[row.text].long}
        return [_element(units[row.text]) for row in rows]

    def _units(self, rows: list[_Row]) -> dict[str, PendingText]:
        """The distinct texts, cut to what the model reads as the collection declares.

        Raises:
            InputRejectedError: one is longer, and the collection declares that there be none.

        """
        embedder, long_text = self.opened.embedder, self.collection.long_text
        hashes = {row.text: row.content_hash for row in rows}
        tokens = embedder.count_tokens(list(hashes))
        most = embedder.model.max_tokens
        units = {
            text: PendingText(hashes[text], text, count, long=count > most)
            for text, count in zip(hashes, tokens, strict=True)
        }
        long = [unit for unit in units.values() if unit.long]
        if long and long_text == "reject":
            raise too_long(long[0], embedder)
        cut_to_fit(long, embedder, long_text)
        return units

    async def _write(
        self, rows: list[_Row], action: Action, elements: Sequence[bytes]
    ) -> list[_Row]:
        """Store rows; returns those whose vector the cache does not have."""
        left = list(zip(rows, elements, strict=True))
        lost: list[_Row] = []
        for attempt in range(BUSY_TRIES):
            if not left:
                break
            if attempt:
                await asyncio.sleep(0.02 * attempt)
            outcomes = await self._complete(left, action)
            self.updated += len(left) - len(outcomes)
            lost += [row for row, _ in left if outcomes.get(row.key) == "lost"]
            for row, _ in left:
                if outcomes.get(row.key) in ("gone", "changed"):
                    self.skipped[row.id] = REASONS[outcomes[row.key]]
            left = [each for each in left if outcomes.get(each[0].key) == "busy"]
        self.skipped |= {row.id: REASONS["busy"] for row, _ in left}
        return lost

    async def _complete(self, rows: list[tuple[_Row, bytes]], action: Action) -> dict[str, str]:
        """(key, outcome) of the rows that were not written.

        A row that Postgres refuses, because a constraint or a trigger of the table forbids it, is
        found by halving, so that it harms itself alone.
        """
        new = [
            NewVector(
                row.key, action, row.content_hash, element, long=row.content_hash in self._long
            )
            for row, element in rows
        ]
        try:
            left = await self.store.complete(
                self.collection, NOBODY, None, new, cache=not self.opened.embedder.free
            )
        except errors.RowRefusedError as error:
            if len(rows) == 1:
                self.failed[rows[0][0].id] = str(error)
                return {rows[0][0].key: "refused"}
            found: dict[str, str] = {}
            for half in batching.bisect(range(len(rows))):
                found |= await self._complete([rows[i] for i in half], action)
            return found
        return dict(left)

    def _report(self, processed: int, began: float) -> schemas.Upserted:
        return schemas.Upserted(
            success=not self.failed,
            processed=processed,
            updated=self.updated,
            skipped=[schemas.Skipped(id=k, reason=why) for k, why in self.skipped.items()],
            failed=[schemas.Failed(id=key, error=why) for key, why in self.failed.items()],
            dimensions=self.collection.model.dimensions,
            model=str(self.collection.model),
            took_ms=took(began),
        )


def _element(unit: PendingText) -> bytes:
    """The vector of a text in the store's form; of a text in parts, the parts' mean."""
    found = unit.mean() if unit.parts else np.asarray(unit.vector).reshape(1, -1)
    return pgvector.vector_elements(np.asarray(found))[0]


def _is_storable(text: str) -> bool:
    """Whether Postgres can hold a text: no NUL, no half of a surrogate pair."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _cut(rows: list[_Row], size: int) -> list[list[_Row]]:
    """Batches of `size` different texts, each with all its rows, so that it is paid for once."""
    by_text: dict[str, list[_Row]] = {}
    for row in rows:
        by_text.setdefault(row.text, []).append(row)
    groups = list(by_text.values())
    return [
        [row for group in groups[start : start + size] for row in group]
        for start in range(0, len(groups), size)
    ]


def body_of(upserted: schemas.Upserted) -> tuple[int, dict[str, Any]]:
    """Status and body: 207 where a row was skipped or failed."""
    whole = not upserted.skipped and not upserted.failed
    return (200 if whole else 207), upserted.model_dump(mode="json")
