"""The nouns of Backline as immutable values. Imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Vectors: TypeAlias = "NDArray[np.float32]"
"""A float32 matrix of shape (n, dimensions), C-contiguous, one row a text."""

Purpose: TypeAlias = Literal["passage", "query"]
"""What a text is embedded for; some models prefix queries and passages differently."""


@dataclass(frozen=True, slots=True)
class Model:
    """What made a vector. Two vectors compare only if their Model is the same.

    `max_tokens` is the longest input the model reads; it is no part of the identity.
    """

    provider: str
    name: str
    revision: str
    dimensions: int
    max_tokens: int = 8192

    @property
    def identity(self) -> tuple[str, str, str, int]:
        return (self.provider, self.name, self.revision, self.dimensions)

    def __str__(self) -> str:
        return f"{self.provider}/{self.name} ({self.dimensions} dimensions)"


LongText: TypeAlias = Literal["truncate", "average", "reject"]
"""What becomes of a text that is longer than the model reads: its beginning is embedded; or all of
it in parts, and their mean is stored, weighted by tokens; or it goes to the dead letters."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A table declared for embedding, with what the catalog says of it now.

    `column_dimensions` is None where the column takes vectors of any length, and `column_type` is
    None where the column is not there. `missing_grants` are the statements that would let the role
    of this connection fill the column, `missing_to_read` those that would let it read the table.
    """

    id: int
    name: str
    table_schema: str
    table_name: str
    key_column: str
    text_template: str
    embedding_column: str
    model_id: int
    model: Model
    max_attempts: int
    table_exists: bool
    column_type: str | None
    column_dimensions: int | None
    long_text: LongText = "truncate"
    missing_grants: tuple[str, ...] = ()
    missing_to_read: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        return f"{self.table_schema}.{self.table_name}"


Action: TypeAlias = Literal["embed", "reuse", "blank", "up_to_date", "gone"]
"""What a claimed row needs; `backline.claim` in the migrations says what each means."""


class Job(NamedTuple):
    """One claimed row: its text as it was at the claim, and the SHA-256 of that text.

    `lease` names the claim: an answer that comes after a newer claim of the row ends nothing.

    A named tuple, because one is made for every row of every backfill, and a frozen dataclass
    takes four times as long to make.
    """

    key: str
    action: Action
    content: str
    content_hash: bytes | None
    attempts: int
    lease: int


Outcome: TypeAlias = Literal["changed", "gone", "busy", "lost"]
"""Why a row was not written; `backline.complete` in the migrations says what each means."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A row that could not be embedded. `retry_in` is seconds; None: a retry cannot help."""

    key: str
    content_hash: bytes
    kind: str
    error: str
    retry_in: float | None
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A dead letter."""

    key: str
    kind: str
    error: str
    attempts: int
    failed_at: datetime
    run_id: int | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is embedded and what is not, counted by the database.

    `rows` = embedded + blank + pending + failed + missing. A blank row has no text and needs no
    vector; a missing one was never enqueued. `rate` is rows a second over all living workers,
    `lag_seconds` the age of the oldest pending job. `long` of the embedded have a text that is
    longer than the model reads, and were dealt with as the collection declares.
    """

    rows: int
    embedded: int
    blank: int
    pending: int
    failed: int
    in_flight: int
    workers: int
    rate: float
    lag_seconds: float
    long: int = 0

    @property
    def missing(self) -> int:
        return max(0, self.rows - self.embedded - self.blank - self.pending - self.failed)

    @property
    def ratio(self) -> float:
        """Embedded rows over rows that have text; 1.0 for an empty table."""
        wanted = self.rows - self.blank
        return 1.0 if wanted <= 0 else min(1.0, self.embedded / wanted)

    @property
    def complete(self) -> bool:
        return self.embedded >= self.rows - self.blank

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until nothing is pending, at the present rate; None where nobody works."""
        if self.pending == 0:
            return 0.0
        return self.pending / self.rate if self.rate > 0 else None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One backfill as the database has it."""

    id: int
    collection: str
    model: str
    state: str
    scanned: int
    due: int
    embedded: int
    reused: int
    failed: int
    batches: int
    tokens: int
    started_at: datetime
    finished_at: datetime | None
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    long: int = 0


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: every row is embedded, blank, or listed in `problems` by its kind."""

    rows: int
    embedded: int
    blank: int
    problems: dict[str, int]
    examples: dict[str, list[str]]

    @property
    def passed(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A ranked row: key, score, the parts that the score is made of, and the row's columns.

    `parts` holds `dense` (cosine similarity) and `keyword` (BM25), each where the row has it.
    `snippet` is HTML: the passages with the query's words, these between <mark> and </mark>.
    """

    key: str
    score: float
    parts: dict[str, float]
    content: str
    row: dict[str, Any] = field(default_factory=dict)
    snippet: str | None = None
