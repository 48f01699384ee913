"""The immutable values that Backline's modules exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Vectors: TypeAlias = "NDArray[np.float32]"
"""A float32 matrix of shape (n, dimensions), C-contiguous, one row a text."""

Purpose: TypeAlias = Literal["passage", "query"]
"""What a text is embedded as. Some models put different prefixes before queries and passages."""


@dataclass(frozen=True, slots=True)
class Model:
    """The model that computed a vector. Vectors compare only if their models have one identity.

    `max_tokens` is the longest input that the model reads. It is not part of the identity.
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
"""The policy for texts that are longer than the model reads. "truncate" embeds the beginning;
"average" embeds the text in parts and stores their mean, weighted by tokens; "reject" moves the row
to the dead letters."""

Role: TypeAlias = Literal["serving", "filling", "retired"]
"""What a target does in a change of the model."""

SUFFIXES: Final[Mapping[Role, str]] = {"serving": "", "filling": "@next", "retired": "@old"}
"""What follows the name of the collection in that of a target."""

PassageUnit: TypeAlias = Literal["auto", "paragraphs", "markdown", "sentences", "tokens"]
"""What passages are made of. "auto" is "markdown" for texts with headings, else "paragraphs"."""


@dataclass(frozen=True, slots=True)
class Splitting:
    """How the texts of a collection are split into passages.

    Attributes:
        tokens: the most that a passage has, with the headings above it.
        overlap: tokens of the passage before that a passage repeats.
    """

    by: PassageUnit
    tokens: int
    overlap: int = 0


@dataclass(frozen=True, slots=True)
class Collection:
    """A table declared for embedding, and the state of its table in the catalog.

    Attributes:
        column_type: None if the column does not exist.
        column_dimensions: None if the column holds vectors of any dimensions.
        into: schema and name of the side table, if the vectors are not in the table itself.
        splitting: how texts are split into passages; None if each row has one vector.
        missing_grants: statements that would permit this connection's role to fill the column.
        missing_to_read: statements that would permit it to read the table.
        unusable: SQLSTATE and message of why the collection cannot be used, such as a table that
            is gone.
        scanned_at: when `reconcile` last compared every row with its record.
        text_template: None if the text is an SQL expression.
        text_expression: the SQL expression of the text over the row `r`; None with a template.
        where_sql: the condition on rows, an SQL expression over the row `r`; None for every row.
        follow: the column that is polled instead of triggers.
        adopting: the vectors that the column held are not all stamped yet.
        role: "serving", or that of a target in a change of the model: "filling" or "retired".
        frozen: edits do not reach the vectors, see `backline.model_change`.

    """

    id: int
    name: str
    table_schema: str
    table_name: str
    key_columns: tuple[str, ...]
    text_template: str | None
    embedding_column: str
    model_id: int
    model: Model
    max_attempts: int
    table_exists: bool
    column_type: str | None
    column_dimensions: int | None
    long_text: LongText = "truncate"
    into: tuple[str, str] | None = None
    splitting: Splitting | None = None
    missing_grants: tuple[str, ...] = ()
    missing_to_read: tuple[str, ...] = ()
    unusable: tuple[str, str] | None = None
    scanned_at: datetime | None = None
    text_expression: str | None = None
    where_sql: str | None = None
    adopting: bool = False
    follow: str | None = None
    role: Role = "serving"
    frozen: bool = False

    @property
    def table(self) -> str:
        return f"{self.table_schema}.{self.table_name}"

    @property
    def family(self) -> str:
        """The name of the collection that this is a target of."""
        return self.name.removesuffix(SUFFIXES[self.role])

    @property
    def vector_column(self) -> str:
        """The column of vectors with its table, for messages."""
        return f"{'.'.join(self.into) if self.into else self.table}.{self.embedding_column}"


Action: TypeAlias = Literal["embed", "reuse", "blank", "up_to_date", "gone"]
"""What a claimed row needs; the SQL function `backline.claim` defines each."""


class Job(NamedTuple):
    """One claimed row: its text at the time of the claim, and the SHA-256 of that text.

    `lease` identifies the claim. A result that arrives after a newer claim does not end the job.

    A named tuple, since every row of a backfill makes one: a frozen dataclass takes four times as
    long to construct.
    """

    key: str
    action: Action
    content: str
    content_hash: bytes | None
    attempts: int
    lease: int


Outcome: TypeAlias = Literal["changed", "unstable", "gone", "busy", "lost"]
"""Why a row was not written; the SQL function `backline.complete` defines each."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A row that could not be embedded. It is retried in `retry_in` seconds; None means never."""

    key: str
    content_hash: bytes
    kind: str
    error: str
    retry_in: float | None
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A dead letter: a row that is not retried any more, with its last error."""

    key: str
    kind: str
    error: str
    attempts: int
    failed_at: datetime
    run_id: int | None


@dataclass(frozen=True, slots=True)
class Problem:
    """What makes the coverage of a collection untrue, and what mends it.

    Attributes:
        kind: a word of the SQL function `backline.problems`, such as `table` or `triggers`.

    """

    kind: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many rows of a collection are in which state, counted by the database.

    `rows` = embedded + blank + pending + failed + missing, except while rows changed unseen. It
    leaves out the `excluded` rows.

    Attributes:
        blank: rows without text, which need no vector.
        pending: rows with a job.
        failed: dead letters.
        in_flight: pending rows that a worker has leased.
        rate: rows a second of all living workers together.
        lag_seconds: age of the oldest pending job.
        long: embedded rows with a text longer than the model reads.
        excluded: rows outside the condition of the collection.
        problems: what makes these figures untrue, if that was asked.

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
    problems: tuple[Problem, ...] = ()
    excluded: int = 0

    @property
    def missing(self) -> int:
        """Rows that were never enqueued."""
        return max(0, self.rows - self.embedded - self.blank - self.pending - self.failed)

    @property
    def surplus(self) -> int:
        """Records of rows that do not exist."""
        return max(0, self.embedded + self.blank + self.pending + self.failed - self.rows)

    @property
    def empty(self) -> bool:
        """Whether the table has no rows."""
        return self.rows == 0 and self.excluded == 0

    @property
    def ratio(self) -> float | None:
        """Embedded rows over rows that have text; None if no row has text."""
        with_text = self.rows - self.blank
        return None if with_text <= 0 else min(1.0, self.embedded / with_text)

    @property
    def complete(self) -> bool:
        """Whether as many rows are embedded as have text, no more and no less."""
        return self.embedded == self.rows - self.blank and not self.problems

    @property
    def remaining(self) -> int:
        """Rows that a backfill has left: pending, or never enqueued."""
        return max(0, self.rows - self.blank - self.embedded - self.failed)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until no row remains, at the present rate; None if nothing is being stored."""
        if self.remaining == 0:
            return 0.0
        return self.remaining / self.rate if self.rate > 0 else None


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A change of the model of a collection, with its state.

    Attributes:
        state: "filling", "indexing", "ready", "serving" (the new target serves), "retired",
            "cancelled", or "retiring" and "cancelling" while a target is being dropped.
        former_model: of the target before the change, as --model takes it.
        new_model: of the other target.
        copies: the vectors are computed from those of the former target, without the model.
        frozen: edits do not reach the former target.

    """

    id: int
    name: str
    state: str
    former_model: str
    new_model: str
    copies: bool
    frozen: bool
    started_at: datetime
    changed_at: datetime

    @property
    def open(self) -> bool:
        return self.state not in ("retired", "cancelled")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One backfill, as recorded in the database."""

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
    passages: int = 0

    def remaining(self, coverage: Coverage) -> int:
        """Return how many rows the run has left, up to its limit."""
        limit: int = self.settings.get("limit", coverage.rows + self.embedded + self.failed)
        return max(0, min(coverage.remaining, limit - self.embedded - self.failed))


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `verify`: each row is embedded, blank, or counted in `problems` by kind.

    `excluded` counts the rows outside the condition of the collection, which `rows` leaves out.
    `table_problems` are those of the collection as a whole, such as another table of its name.
    """

    rows: int
    embedded: int
    blank: int
    problems: dict[str, int]
    examples: dict[str, list[str]]
    table_problems: tuple[Problem, ...] = ()
    excluded: int = 0

    @property
    def passed(self) -> bool:
        return not self.problems and not self.table_problems

    @property
    def empty(self) -> bool:
        """Whether the table has no rows."""
        return self.rows == 0 and self.excluded == 0


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a row's text that a search found.

    Attributes:
        ordinal: its number in the text, from 0.
        start, end: its position in the text, in characters.
        heading: the headings above it.
        score: its cosine similarity to the query.

    """

    ordinal: int
    start: int
    end: int
    heading: str
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A ranked row.

    Attributes:
        parts: the components of the score: `dense` (cosine similarity) and `keyword` (BM25), if
            the row has them.
        content: the row's text.
        row: the row's columns.
        snippet: HTML with the passages that match; the query's words stand between <mark> and
            </mark>.
        passages: the best passages, best first, if the collection splits texts.

    """

    key: str
    score: float
    parts: dict[str, float]
    content: str
    row: dict[str, Any] = field(default_factory=dict)
    snippet: str | None = None
    passages: tuple[Passage, ...] = ()
