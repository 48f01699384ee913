"""What a worker has in hand: each different text once, with every row that waits for its vector."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backline import errors
from backline.embedders.base import Embedder
from backline.types import Job, LongText, Vectors
from backline.worker import batching

SMALLEST_MEAN: Final = 1e-6


class Rejection(NamedTuple):
    """Why a text could not be embedded. `retry_in` is seconds; None: a retry cannot help."""

    kind: str
    error: str
    retry_in: float | None


@dataclass(slots=True, eq=False)
class PendingText:
    """One text on its way. Rows that share it wait together, so it is sent and paid for once.

    A unit stays known until every row of it is settled, so that a row that is claimed while its
    text is in flight, or while its vector is being written, joins it.

    A text that is longer than the model reads may be embedded in `windows`: units of their own,
    which have their jobs in common with the `whole`, and bring it their vectors.
    """

    content_hash: bytes
    text: str
    tokens: int
    long: bool
    jobs: list[Job] = field(default_factory=list)
    unsettled: int = 0
    element: bytes | None = None  # its vector, once there, in the form that the store takes
    verdict: Rejection | None = None
    faults: int = 0
    faults_since: float = 0.0
    whole: PendingText | None = None
    windows: list[PendingText] = field(default_factory=list)
    weight: int = 0  # of a window: its tokens, as often as the text has it
    vector: NDArray[np.float32] | None = None

    @property
    def settles(self) -> PendingText:
        """The unit that the database hears of."""
        return self.whole or self

    @property
    def abandoned(self) -> bool:
        """Whether it is a window of a text that has failed by now."""
        return self.whole is not None and self.whole.verdict is not None

    def cut(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Embed this text in these windows; those that repeat are embedded once."""
        times = Counter(texts)
        self.windows = [
            PendingText(
                b"", text, count, long=True, jobs=self.jobs, whole=self, weight=times[text] * count
            )
            for text, count in dict(zip(texts, tokens, strict=True)).items()
        ]
        self.tokens = sum(window.tokens for window in self.windows)

    def mean(self) -> Vectors | None:
        """The unit vector of all windows' mean, weighted by tokens; None until all are there."""
        vectors = [window.vector for window in self.windows if window.vector is not None]
        if len(vectors) < len(self.windows):
            return None
        mean = np.average(np.stack(vectors), axis=0, weights=[w.weight for w in self.windows])
        length = float(np.linalg.norm(mean))
        # Windows that cancel out have no mean direction: the first one speaks for the text.
        mean = vectors[0] if length < SMALLEST_MEAN else mean / length
        return np.asarray(mean, dtype=np.float32).reshape(1, -1)

    @property
    def item(self) -> batching.Item:
        # Four bytes a character at most; the estimate of a quarter of the bytes only needs a bound
        # for scripts outside ASCII, and encoding every text again would cost more than it saves.
        size = len(self.text) if self.text.isascii() else len(self.text.encode("utf-8", "replace"))
        return batching.Item(self.tokens, size)


def cut_to_fit(units: Iterable[PendingText], embedder: Embedder, long_text: LongText) -> None:
    """Do with texts that are longer than the model reads what a collection declares.

    Tokenizing a long text takes a while: call it in a thread.
    """
    most = embedder.model.max_tokens
    for unit in units:
        if unit.long and long_text == "truncate":
            unit.text, unit.tokens = embedder.truncate(unit.text), most
        elif unit.long and long_text == "average":
            parts = batching.windows(unit.text, most, embedder.truncate)
            unit.cut(parts, embedder.count_tokens(parts))


def too_long(unit: PendingText, embedder: Embedder) -> errors.InputRejectedError:
    """What is said of a long text where the collection declares that there be none."""
    return errors.InputRejectedError(
        f"The text has {unit.tokens:,} tokens, the model reads {embedder.model.max_tokens:,}, and "
        "the collection is declared with --long-text reject. Shorten the text, or declare the "
        "collection anew with --long-text truncate or average."
    )


class Backlog:
    """Units waiting to be embedded, cut into batches when a lane asks for one."""

    def __init__(self, budget: batching.Budget, *, sort_by_length: bool) -> None:
        self._budget = budget
        self._sort = sort_by_length
        self._units: dict[bytes, PendingText] = {}
        self._ended: list[PendingText] | None = None  # while they are remembered
        self._ready: deque[PendingText] = deque()
        self._planned: deque[list[PendingText]] = deque()
        self._waiting = 0
        self._changed = asyncio.Condition()
        self._closed = False
        self.more_coming = False

    def __len__(self) -> int:
        """Units that no lane has taken yet."""
        return self._waiting

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Keep known, until the end of the block, the units whose last row is written within it.

        The rows of a claim may have been looked at before that, and found to need embedding.
        """
        self._ended = []
        try:
            yield
        finally:
            ended, self._ended = self._ended, None
            for unit in ended:
                if unit.unsettled == 0:
                    self._units.pop(unit.content_hash, None)

    def known(self, content_hash: bytes) -> PendingText | None:
        return self._units.get(content_hash)

    async def add(self, units: Iterable[PendingText]) -> None:
        """Take new units in."""
        async with self._changed:
            for unit in units:
                self._units[unit.content_hash] = unit
                self._ready.extend(unit.windows or [unit])
                self._waiting += len(unit.windows) or 1
            self._changed.notify_all()

    async def put_back(self, units: Sequence[PendingText]) -> None:
        """Units that a lane could not deliver, to go first when it is time."""
        async with self._changed:
            self._planned.appendleft(list(units))
            self._waiting += len(units)
            self._changed.notify_all()

    def settle(self, unit: PendingText) -> None:
        """One row of the unit is written or given up; the last one ends the unit."""
        unit.unsettled -= 1
        if unit.unsettled == 0 and unit.element is not None and self._ended is not None:
            self._ended.append(unit)
        elif unit.unsettled == 0:
            self._units.pop(unit.content_hash, None)

    async def next_batch(self) -> list[PendingText] | None:
        """The next batch to embed; waits for one, and answers None once the backlog is closed."""
        async with self._changed:
            while True:
                if self._closed:
                    return None
                if not self._planned:
                    self._plan()
                if self._planned:
                    batch = self._planned.popleft()
                    self._waiting -= len(batch)
                    if wanted := [unit for unit in batch if not unit.abandoned]:
                        return wanted
                    continue
                await self._changed.wait()

    async def flush(self) -> None:
        """Say that nothing more is coming soon: a batch that is not full may go."""
        async with self._changed:
            self.more_coming = False
            self._changed.notify_all()

    async def close(self) -> None:
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _plan(self) -> None:
        units = list(self._ready)
        if not units or (self.more_coming and len(units) < self._budget.max_items):
            return
        batches = batching.plan([u.item for u in units], self._budget, sort_by_length=self._sort)
        self._ready.clear()
        if self.more_coming and len(batches) > 1:  # the last is probably not full: let it grow
            self._ready.extend(units[i] for i in batches.pop())
        self._planned.extend([units[i] for i in batch] for batch in batches)
