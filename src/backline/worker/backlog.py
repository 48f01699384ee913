"""Texts that a worker has claimed: each distinct text once, with every row that has it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backline import pgvector
from backline.passages import Piece
from backline.store import NewPassage
from backline.types import Job, Vectors
from backline.worker import batching

SMALLEST_MEAN: Final = 1e-6
ERROR_LENGTH: Final = 2000


class Rejection(NamedTuple):
    """Why a text could not be embedded. `retry_in` is seconds; None: a retry cannot help."""

    kind: str
    error: str
    retry_in: float | None = None

    @classmethod
    def of(cls, kind: str, error: object, retry_in: float | None = None) -> Rejection:
        """Return a rejection with the message of an error, cut to `ERROR_LENGTH`."""
        return cls(kind, str(error)[:ERROR_LENGTH], retry_in)


class PendingPassage(NamedTuple):
    """A passage of a text, and the part that is embedded for it."""

    piece: Piece
    content_hash: bytes
    part: PendingText

    @property
    def new(self) -> NewPassage:
        """The passage to write. Without a vector it reuses the one of an equal passage."""
        encoded = self.part.encoded or pgvector.NULL
        return NewPassage(*self.piece, self.content_hash, encoded)


@dataclass(slots=True, eq=False)
class PendingText:
    """A text to embed, with all rows that have it. It is embedded and paid for once.

    The backlog keeps it until its last row is processed. A row claimed while the text is being
    embedded, or while its vector is being written, joins it.

    A text that is longer than the model reads may be embedded in `parts`. Each part shares the
    jobs of the text, and the vector of the text is the mean of theirs. In a collection of passages
    the parts are the passages that have no vector yet, and each keeps its own.
    """

    content_hash: bytes
    text: str
    tokens: int = 0
    long: bool = False
    jobs: list[Job] = field(default_factory=list)
    open_rows: int = 0  # rows that are not processed yet
    worker: int = 0  # the id under which its rows were claimed, or last found to be held
    encoded: bytes | None = None  # the vector in the form that the store takes
    rejection: Rejection | None = None
    faults: int = 0
    faults_since: float = 0.0
    part_of: PendingText | None = None
    parts: list[PendingText] = field(default_factory=list)
    passages: list[PendingPassage] = field(default_factory=list)
    weight: int = 0  # of a part: its tokens, times its occurrences in the text
    vector: NDArray[np.float32] | None = None
    kept: bool = False  # for a later batch, once

    @property
    def whole(self) -> PendingText:
        """The text that the rows have: this one, or the one that it is a part of."""
        return self.part_of or self

    @property
    def to_embed(self) -> list[PendingText]:
        """The texts to send for it: its parts, or itself."""
        return self.parts if self.parts or self.passages else [self]

    @property
    def abandoned(self) -> bool:
        """Whether no row needs it: all were lost, or it is a part of a rejected text."""
        return not self.jobs or (self.part_of is not None and self.part_of.rejection is not None)

    @property
    def attempts(self) -> int:
        """The failed attempts of its first row."""
        return self.jobs[0].attempts if self.jobs else 0

    def split(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Embed this text in these parts. Equal parts are embedded once."""
        occurrences = Counter(texts)
        self.parts = [
            PendingText(
                b"", text, count, long=True, jobs=self.jobs, part_of=self,
                weight=occurrences[text] * count,
            )
            for text, count in dict(zip(texts, tokens, strict=True)).items()
        ]  # fmt: skip
        self.tokens = sum(part.tokens for part in self.parts)

    def split_into(self, pieces: Sequence[Piece]) -> None:
        """Embed this text as these passages. Equal passages are embedded once."""
        whole = len(pieces) == 1 and pieces[0] == Piece(0, len(self.text))
        parts: dict[bytes, PendingText] = {}
        self.passages = []
        for piece in pieces:
            text = piece.embedded(self.text)
            content_hash = self.content_hash if whole else sha256(text.encode()).digest()
            if content_hash not in parts:
                parts[content_hash] = PendingText(
                    content_hash, text, self.tokens, jobs=self.jobs, part_of=self
                )
            self.passages.append(PendingPassage(piece, content_hash, parts[content_hash]))
        self.parts = list(parts.values())

    def keep_vectors(self, known: Collection[bytes]) -> None:
        """Embed no passage whose hash is known to have a vector."""
        self.parts = [part for part in self.parts if part.content_hash not in known]
        self.tokens = sum(part.tokens for part in self.parts)

    def finish_passages(self) -> bool:
        """Return whether every passage has its vector."""
        if any(part.encoded is None for part in self.parts):
            return False
        self.encoded = pgvector.NULL  # the passages have the vectors
        return True

    def mean(self) -> Vectors | None:
        """Return the unit vector of the parts' mean, weighted by tokens.

        Returns:
            float32 of shape (1, dimensions), or None until every part has its vector.
        """
        vectors = [part.vector for part in self.parts if part.vector is not None]
        if len(vectors) < len(self.parts):
            return None
        mean = np.average(np.stack(vectors), axis=0, weights=[part.weight for part in self.parts])
        length = float(np.linalg.norm(mean))
        # A mean of zero has no direction: the vector of the first part stands for the text.
        mean = vectors[0] if length < SMALLEST_MEAN else mean / length
        return np.asarray(mean, dtype=np.float32).reshape(1, -1)

    @property
    def item(self) -> batching.Item:
        """The cost of the text in a batch."""
        # `isascii` is much cheaper than encoding every text a second time.
        size = len(self.text) if self.text.isascii() else len(self.text.encode("utf-8", "replace"))
        return batching.Item(self.tokens, size)


class Backlog:
    """Texts that wait to be embedded, cut into batches when an embed loop takes one."""

    def __init__(self, budget: batching.Budget, *, sort_by_length: bool) -> None:
        self._budget = budget
        self._sort = sort_by_length
        self._texts: dict[bytes, PendingText] = {}
        self._finished: list[PendingText] | None = None  # a list inside `keep_finished`
        self._unplanned: deque[PendingText] = deque()
        self._planned: deque[list[PendingText]] = deque()
        self._waiting = 0
        self._changed = asyncio.Condition()
        self._closed = False
        self.more_coming = False

    def __len__(self) -> int:
        """Return the number of texts, or parts of texts, that no embed loop has taken yet."""
        return self._waiting

    @contextmanager
    def keep_finished(self) -> Iterator[None]:
        """Keep finished texts until the end of the block.

        A claim may run while the last row of a text is being written. Its rows with the same text
        then still need a vector, and take the one of the kept text.
        """
        self._finished = []
        try:
            yield
        finally:
            finished, self._finished = self._finished, None
            for each in finished:
                if each.open_rows == 0:
                    self._texts.pop(each.content_hash, None)

    def find(self, content_hash: bytes) -> PendingText | None:
        """Return the text with this hash, if it has rows that are not processed."""
        return self._texts.get(content_hash)

    async def add(self, pending: Iterable[PendingText]) -> None:
        """Add new texts."""
        async with self._changed:
            for each in pending:
                self._texts[each.content_hash] = each
                self._unplanned.extend(each.to_embed)
                self._waiting += len(each.to_embed)
            self._changed.notify_all()

    async def put_back(self, batch: Sequence[PendingText]) -> None:
        """Return a batch that was not embedded. It is the next to be taken."""
        async with self._changed:
            self._planned.appendleft(list(batch))
            self._waiting += len(batch)
            self._changed.notify_all()

    def finish_row(self, pending: PendingText) -> None:
        """Record that one row of the text is processed. The last row removes the text."""
        pending.open_rows -= 1
        if pending.open_rows:
            return
        if pending.encoded is not None and self._finished is not None:
            self._finished.append(pending)
        else:
            self._texts.pop(pending.content_hash, None)

    async def next_batch(self) -> list[PendingText] | None:
        """Wait for the next batch to embed, and return it; None once the backlog is closed."""
        async with self._changed:
            while True:
                if self._closed:
                    return None
                if not self._planned:
                    self._plan()
                if self._planned:
                    planned = self._planned.popleft()
                    self._waiting -= len(planned)
                    if batch := [each for each in planned if not each.abandoned]:
                        return batch
                    continue
                await self._changed.wait()

    async def flush(self) -> None:
        """Let batches that are not full be taken, because no more texts are expected soon."""
        async with self._changed:
            self.more_coming = False
            self._changed.notify_all()

    async def close(self) -> None:
        """Make `next_batch` return None from now on."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _plan(self) -> None:
        texts = list(self._unplanned)
        if not texts or (self.more_coming and len(texts) < self._budget.max_items):
            return
        items = [each.item for each in texts]
        batches = batching.plan(items, self._budget, sort_by_length=self._sort)
        self._unplanned.clear()
        if self.more_coming and len(batches) > 1:
            last = [texts[i] for i in batches[-1]]
            # The last is probably not full: let it grow. A short text would wait again and again.
            if not any(each.kept for each in last):
                for each in last:
                    each.kept = True
                self._unplanned.extend(last)
                batches.pop()
        self._planned.extend([texts[i] for i in batch] for batch in batches)
