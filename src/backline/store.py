"""The interface between the engine and a database: `JobStore` and the values it exchanges."""

from __future__ import annotations

import selectors
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from backline import pgvector
from backline.types import (
    Action,
    Collection,
    Coverage,
    FailedAttempt,
    Failure,
    Job,
    ModelChange,
    Outcome,
    Problem,
    RunRecord,
)


@dataclass(frozen=True, slots=True)
class LeasedBatch:
    """The due rows of one page, leased. `last_key` is None if the page was empty."""

    scanned: int
    last_key: str | None
    jobs: list[Job]


@dataclass(frozen=True, slots=True)
class ScannedRow:
    """One row of a table scan.

    Attributes:
        due: the row needs embedding.
        cached: the cache has a vector of its text.

    """

    key: str
    due: bool
    content: str
    content_hash: bytes
    cached: bool


@dataclass(frozen=True, slots=True)
class VerifiedPage:
    """The result of verifying one page of rows; `problems` are pairs (key, problem)."""

    scanned: int
    embedded: int
    blank: int
    problems: list[tuple[str, str]]
    last_key: str | None
    excluded: int = 0


@dataclass(frozen=True, slots=True)
class DriftPage:
    """The drift in one page of rows; `drift` are pairs (kind, key)."""

    scanned: int
    drift: list[tuple[str, str]]
    last_key: str | None


@dataclass(frozen=True, slots=True)
class KeywordsPage:
    """One indexed page of a table's keywords; `last` is True for the last page of the table."""

    scanned: int
    last_key: str | None
    last: bool


class NewPassage(NamedTuple):
    """A passage to write; see `backline.passages.Piece`.

    Attributes:
        content_hash: SHA-256 of what was embedded.
        encoded: its vector, or `pgvector.NULL` to reuse that of an equal passage.

    """

    start: int
    end: int
    heading: str
    content_hash: bytes
    encoded: bytes = pgvector.NULL


class NewVector(NamedTuple):
    """A row to write.

    Attributes:
        encoded: its vector, an item of `pgvector.vector_elements`, or `pgvector.NULL`.
        lease: the lease of the job, or None to write without a job.
        long: its text is longer than the model reads.
        passages: in a collection of passages, all those of the row in order. They have the vectors.

    """

    key: str
    action: Action
    content_hash: bytes | None
    encoded: bytes = pgvector.NULL
    lease: int | None = None
    long: bool = False
    passages: tuple[NewPassage, ...] = ()


def has_ended(session: Any) -> bool:
    """Return whether an idle connection has ended, as far as this machine has been told."""
    if session.closed:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(session, selectors.EVENT_READ)
        return bool(selector.select(0))  # an idle server sends only the error that ends the session


class ReceivedLeases:
    """The newest lease that each worker has received, and whether a claim is unanswered.

    A worker claims in one task, and later leases are greater. A greater one in the database than
    the newest that was received belongs to a claim whose response was lost.
    """

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}
        self._unanswered: set[int] = set()

    def newest(self, worker: int) -> int:
        return self._newest.get(worker, 0)

    def unanswered(self, worker: int) -> bool:
        """Whether the worker's last claim has had no response."""
        return worker in self._unanswered

    def expect(self, worker: int) -> None:
        """Record that a claim is sent."""
        self._unanswered.add(worker)

    def receive(self, worker: int, jobs: Sequence[Job]) -> None:
        """Record the response to a claim."""
        self._unanswered.discard(worker)
        if jobs:
            self._newest[worker] = max(self.newest(worker), jobs[0].lease or 0)

    def move(self, worker: int, replacement: int) -> None:
        """Record that a worker has another id."""
        self._newest[replacement] = self._newest.pop(worker, 0)
        if worker in self._unanswered:
            self._unanswered.remove(worker)
            self._unanswered.add(replacement)


@dataclass(frozen=True, slots=True)
class Lease:
    """A registered worker.

    Attributes:
        worker: its id.
        session: the connection that holds the advisory lock of a living worker. None if
            connections have no sessions; then only heartbeats show that it lives.

    """

    worker: int
    session: Any | None

    @property
    def intact(self) -> bool:
        """Whether the session shows no sign of its end. True without a session."""
        return self.session is None or not has_ended(self.session)


@dataclass(frozen=True, slots=True)
class Usage:
    """What embedding the rows of one write cost. The write adds it to the run.

    Attributes:
        batches: requests to the embedder.
        tokens: tokens of all texts.
        truncated: texts longer than the model reads.
        passages: passages that were sent.

    """

    batches: int = 0
    tokens: int = 0
    truncated: int = 0
    passages: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.batches + other.batches,
            self.tokens + other.tokens,
            self.truncated + other.truncated,
            self.passages + other.passages,
        )


NO_USAGE: Final = Usage()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond the verbs of `JobStore`.

    Attributes:
        sessions: a connection outlives a transaction, so LISTEN and session locks work.
        indexes: the store can build HNSW indexes.
        cache: the store can trim the vector cache.

    """

    sessions: bool
    indexes: bool
    cache: bool


class JobStore(Protocol):
    """The verbs of the engine, over Postgres (`Store`) or PostgREST (`RestStore`).

    `Store` in postgres/store.py documents each verb. A verb may be called again if its result was
    lost.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    async def collections(self) -> list[Collection]: ...
    async def collection(self, name: str | None = None) -> Collection: ...
    async def coverage(self, collection: Collection) -> Coverage: ...
    async def problems(self, collection: Collection) -> tuple[Problem, ...]: ...
    async def checked_coverage(self, collection: Collection) -> Coverage: ...
    async def follow(self, collection: Collection) -> bool: ...
    async def recount(self, collection: int) -> dict[str, int]: ...
    async def compact(self, collection: Collection) -> None: ...
    async def verify_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> VerifiedPage: ...
    async def now(self) -> datetime: ...
    async def search_rows(self, values: Mapping[str, Any]) -> list[dict[str, Any]]: ...
    async def query_text(self, collection: Collection, query: str) -> str: ...
    async def needs_keywords(self, collection: Collection) -> bool: ...
    async def build_keywords_page(
        self, collection: Collection, after: str | None
    ) -> KeywordsPage: ...
    async def finish_keywords(self, collection: Collection) -> bool: ...
    async def scan_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> list[ScannedRow]: ...
    async def claim(
        self, collection: Collection, worker: int, limit: int, *, edits_only: bool = False
    ) -> list[Job]: ...
    async def claim_batch(
        self, collection: Collection, worker: int, run: int | None, after: str | None, limit: int,
        unfinished: Iterable[int] = (),
    ) -> LeasedBatch: ...  # fmt: skip
    async def end_finished_batches(self, worker: int, unfinished: Iterable[int]) -> None: ...
    async def complete(
        self, collection: Collection, worker: int, run: int | None, rows: Sequence[NewVector], *,
        cache: bool, usage: Usage = NO_USAGE,
    ) -> list[tuple[str, Outcome]]: ...  # fmt: skip
    async def known_passages(
        self, collection: Collection, passages: Sequence[tuple[str, bytes]]
    ) -> list[bool]: ...
    async def confirm(
        self, collection: Collection, worker: int, run: int | None, rows: Sequence[NewVector],
        call: UUID, batches: int = 1,
    ) -> list[tuple[str, str]]: ...  # fmt: skip
    async def fail(
        self, collection: Collection, worker: int, run: int | None, rows: Sequence[FailedAttempt]
    ) -> list[str]: ...
    async def outstanding(
        self, collection: Collection, before: datetime
    ) -> tuple[bool, float | None]: ...
    async def register(
        self, collection: Collection, run: int | None, lease: float, replaces: int | None = None
    ) -> Lease: ...
    async def heartbeat(
        self, lease: Lease, run: int | None, seconds: float, rate: float
    ) -> tuple[bool, str | None]: ...
    async def held(
        self, collection: Collection, worker: int, jobs: Sequence[Job]
    ) -> list[bool]: ...
    async def unregister(self, lease: Lease) -> None: ...
    async def close_session(self, lease: Lease) -> None: ...
    async def release_dead_workers(
        self, collection: Collection, worker: int | None = None
    ) -> int: ...
    async def start_run(self, collection: Collection, settings: Mapping[str, Any]) -> int: ...
    async def finish_run(self, run: int, state: str, report: Mapping[str, Any]) -> None: ...
    async def cancel_run(self, run: int) -> bool: ...
    async def runs(
        self, collection: Collection | None = None, run: int | None = None, limit: int = 20
    ) -> list[RunRecord]: ...
    def failures(self, collection: Collection, page: int = 1000) -> AsyncIterator[Failure]: ...
    async def run_failures(self, run: int, limit: int = 20) -> list[tuple[str, str, str]]: ...
    async def retry_failures(self, collection: Collection, keys: Sequence[str] | None) -> int: ...
    async def drop_failures(self, collection: Collection, keys: Sequence[str] | None) -> int: ...
    async def trim_cache(self, most_bytes: int) -> int: ...
    async def changes(self, name: str | None = None) -> list[ModelChange]: ...
    async def copy_page(self, name: str) -> int: ...
    async def finish_fill(self, name: str, *, despite_failures: bool, lag: float = 0) -> None: ...
    async def finish_indexes(self, name: str) -> None: ...
    async def cutover(self, name: str, *, despite_failures: bool, lag: float = 0) -> None: ...
    async def rollback(self, name: str) -> None: ...


def failed_row(row: FailedAttempt) -> dict[str, Any]:
    """Return a failed attempt as the JSON object that `backline.fail` reads."""
    return {
        "key": row.key, "content_hash": row.content_hash.hex(), "kind": row.kind,
        "error": row.error, "retry_in": row.retry_in, "lease": row.lease,
    }  # fmt: skip
