"""Request and response models of the API, as the OpenAPI document shows them."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from backline import types
from backline.collections import announced_end
from backline.embedders import registry
from backline.search import DEFAULT_WEIGHT, LARGEST_PAGE, Mode
from backline.search.query import DEEPEST_ROW

MAX_KEY_LENGTH = 1000
Topic = Literal["run_progress", "coverage_changed", "failure_added"]
Name = Annotated[str, Field(max_length=200, description="A collection's name.")]


def portable_json(value: Any) -> Any:
    """Return the value. Raise ValueError for one that not every JSON reader accepts."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise ValueError(
            "must not hold half of a surrogate pair, NaN or infinity, nor be nested too deeply"
        ) from None
    return value


class NullIsAbsent(BaseModel):
    """A request in which null is the same as a member left out, if it may be left out."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = cls.model_fields
        return {
            name: member
            for name, member in value.items()
            if member is not None or name not in fields or fields[name].is_required()
        }

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, member in schema.get("properties", {}).items():
            if name not in schema.get("required", ()):
                _allow_null(member)
        return schema


def _allow_null(member: dict[str, Any]) -> None:
    """Add null to the values of a member of a JSON schema."""
    notes: dict[str, Any] = {
        key: member.pop(key) for key in ("title", "description", "default") if key in member
    }
    choices = member.pop("anyOf", None) or [dict(member)]
    member.clear()
    member["anyOf"] = [*choices, *([] if {"type": "null"} in choices else [{"type": "null"}])]
    member.update(notes)


class Body(NullIsAbsent):
    """A request body. An unknown member is an error, so that a typo is not ignored."""

    model_config = ConfigDict(extra="forbid")


# --- resources ------------------------------------------------------------------------------------


class Model(BaseModel):
    """The model that embeds a collection."""

    provider: str
    name: str
    revision: str
    dimensions: int
    max_tokens: int = Field(description="Longest input of the model.")

    @classmethod
    def of(cls, model: types.Model) -> Self:
        return cls(
            provider=model.provider, name=model.name, revision=model.revision,
            dimensions=model.dimensions, max_tokens=_max_tokens(model),
        )  # fmt: skip


def _max_tokens(model: types.Model) -> int:
    """Return the longest input of a model, which the database does not store."""
    entry = registry.find(model.provider, model.name)
    return entry.max_tokens if entry else model.max_tokens


class CoverageProblem(BaseModel):
    """What makes a coverage untrue."""

    kind: str = Field(description="A word, such as `table`, `triggers` or `rows`.")
    problem: str
    remedy: str = Field(description="The command or the statement that mends it.")


class Coverage(BaseModel):
    """How many rows are embedded, pending and failed."""

    rows: int
    embedded: int
    blank: int = Field(description="Rows without text, which have no vector.")
    excluded: int = Field(
        description="Rows outside the condition of the collection, which `rows` leaves out."
    )
    pending: int
    failed: int
    missing: int = Field(description="Rows that were never enqueued.")
    in_flight: int
    workers: int
    rate: float = Field(description="Rows a second, over all workers.")
    lag_seconds: float = Field(description="Age of the oldest pending row.")
    empty: bool = Field(description="Whether the table has no rows.")
    ratio: float | None = Field(
        description="Embedded rows over rows that have text; null if no row has text."
    )
    complete: bool
    remaining: int = Field(description="Rows that a backfill has left: pending or missing.")
    eta_seconds: float | None = Field(
        description="Seconds until no row remains, at the present rate; null if it is unknown."
    )
    stale: int | None = Field(
        description="Pending rows with an older vector; null if more than 10,000 are pending."
    )
    problems: list[CoverageProblem] = Field(
        description="What makes these figures untrue, as of the last ten seconds."
    )

    @classmethod
    def of(cls, coverage: types.Coverage, stale: int | None) -> Self:
        return cls(
            **asdict(coverage), stale=stale, missing=coverage.missing, ratio=coverage.ratio,
            complete=coverage.complete, eta_seconds=coverage.eta_seconds, empty=coverage.empty,
            remaining=coverage.remaining,
        )  # fmt: skip


class ModelChange(BaseModel):
    """A change of the model of a collection."""

    id: int
    name: str = Field(description="The collection.")
    state: Literal[
        "filling", "indexing", "ready", "serving", "retiring", "retired", "cancelling", "cancelled"
    ] = Field(description="In `serving`, the new vectors are searched; before, the former ones.")
    former_model: str
    new_model: str
    copies: bool = Field(description="The new vectors are computed from the former ones.")
    frozen: bool = Field(description="Edits do not reach the former vectors.")
    started_at: datetime
    changed_at: datetime

    @classmethod
    def of(cls, change: types.ModelChange) -> Self:
        return cls(**asdict(change))


class Target(BaseModel):
    """The vectors of a change of the model that are not searched."""

    name: str = Field(description="The name that status, verify and the failures use.")
    role: Literal["filling", "retired"]
    frozen: bool = Field(description="Edits do not reach these vectors.")
    place: str = Field(description="The table and the column of the vectors.")
    column_type: str | None
    model: Model
    coverage: Coverage

    @classmethod
    def of(cls, collection: types.Collection, coverage: Coverage) -> Self:
        return cls(
            name=collection.name,
            role="filling" if collection.role == "filling" else "retired",
            frozen=collection.frozen, place=collection.vector_column,
            column_type=collection.column_type, model=Model.of(collection.model),
            coverage=coverage,
        )  # fmt: skip


class Collection(BaseModel):
    """A collection and its coverage."""

    name: str
    table: str
    key_columns: list[str]
    text_template: str | None = Field(description="Null if the text is an SQL expression.")
    text_expression: str | None = Field(description="Null if the text is a template.")
    where_sql: str | None = Field(description="The condition on rows; null for every row.")
    embedding_column: str
    model: Model
    model_end: CoverageProblem | None = Field(
        description="The end of the model that its provider has announced; null if none is known."
    )
    coverage: Coverage
    change: ModelChange | None = Field(None, description="The open change of the model.")
    target: Target | None = Field(None, description="The vectors of this change that do not serve.")

    @classmethod
    def of(
        cls, collection: types.Collection, coverage: Coverage, change: ModelChange | None = None,
        target: Target | None = None,
    ) -> Self:  # fmt: skip
        end = announced_end(collection, datetime.now(UTC).date())
        return cls(
            name=collection.name, table=collection.table, key_columns=list(collection.key_columns),
            text_template=collection.text_template,
            text_expression=collection.text_expression, where_sql=collection.where_sql,
            embedding_column=collection.embedding_column,
            model=Model.of(collection.model), coverage=coverage, change=change, target=target,
            model_end=None if end is None else CoverageProblem(**asdict(end)),
        )  # fmt: skip


class Run(BaseModel):
    """One backfill."""

    id: int
    collection: str
    model: str
    state: Literal["running", "cancelling", "completed", "cancelled", "interrupted"]
    scanned: int
    due: int
    embedded: int
    reused: int
    failed: int
    batches: int
    tokens: int
    passages: int = Field(0, description="Passages that were embedded.")
    started_at: datetime
    finished_at: datetime | None
    seconds: float
    settings: dict[str, Any]

    @classmethod
    def of(cls, run: types.RunRecord) -> Self:
        return cls(**asdict(run))


class Failure(BaseModel):
    """A dead letter."""

    collection: str
    key: str
    kind: str
    error: str
    attempts: int
    failed_at: datetime
    run_id: int | None

    @classmethod
    def of(cls, collection: str, failure: types.Failure) -> Self:
        return cls(collection=collection, **asdict(failure))


class Passage(BaseModel):
    """A passage of a row's text."""

    ordinal: int = Field(description="Its number in the text, from 0.")
    start: int = Field(description="Its position in the text, in characters.")
    end: int
    heading: str = Field(description="The headings above it.")
    score: float = Field(description="Cosine similarity to the query.")
    text: str


class Hit(BaseModel):
    """A search result."""

    key: str
    score: float
    parts: dict[str, float] = Field(description="`dense`: cosine; `keyword`: BM25.")
    content: str
    snippet: str | None = Field(description="HTML, escaped except for <mark>.")
    row: dict[str, Any]
    passages: list[Passage] = Field(
        description="The best passages, best first, if the collection splits texts."
    )

    @classmethod
    def of(cls, hit: types.SearchHit) -> Self:
        return cls(
            key=hit.key, score=hit.score, parts=hit.parts, content=hit.content,
            snippet=hit.snippet, row=hit.row,
            passages=[Passage(**asdict(passage)) for passage in hit.passages],
        )  # fmt: skip


# --- status ---------------------------------------------------------------------------------------


class ServerInfo(BaseModel):
    name: str
    version: str
    started_at: datetime
    uptime_seconds: float
    worker: bool = Field(description="Whether this server embeds edits as they happen.")


class AuthInfo(BaseModel):
    key_required_for_writes: bool
    key_required_for_reads: bool
    authorized: bool = Field(description="Whether the key of this request permits writes.")
    role: Literal["read", "write", "admin"] | None = Field(
        description="The role of the key of this request; null without a valid one."
    )


class DatabaseInfo(BaseModel):
    where: str
    ok: bool


class Status(BaseModel):
    server: ServerInfo
    auth: AuthInfo
    database: DatabaseInfo
    collections: list[Collection]
    clients: int
    hosts: list[str] = Field(
        description="Clients that declared the role host, which executes actions."
    )


class NamedCoverage(BaseModel):
    name: str
    coverage: Coverage


class Coverages(BaseModel):
    collections: list[NamedCoverage]


class Facet(BaseModel):
    value: str
    count: int


class Facets(BaseModel):
    collection: str
    facets: dict[str, list[Facet]]


# --- runs and failures ----------------------------------------------------------------------------


class Runs(BaseModel):
    runs: list[Run]


class OneRun(BaseModel):
    run: Run


class StartRun(Body):
    """A backfill to start."""

    collection: Name | None = None
    batch_size: int | None = Field(None, ge=1, le=2048, description="Most texts in one request.")
    limit: int | None = Field(None, ge=1, le=2**31 - 1, description="Most rows to embed.")


class Failures(BaseModel):
    failures: list[Failure]
    total: int
    next: str | None = Field(description="The parameter `after` of the next page.")


class RetryFailures(Body):
    """Dead letters to requeue; all of them unless keys are given."""

    collection: Name | None = None
    keys: Annotated[list[Annotated[str, Field(max_length=MAX_KEY_LENGTH)]], Field(max_length=10_000)] | None = None  # noqa: E501  # fmt: skip


class Retried(BaseModel):
    retried: int


# --- search and suggestions -----------------------------------------------------------------------


class SearchRequest(Body):
    """A search query."""

    query: str = Field(min_length=1)
    collection: Name | None = None
    mode: Mode = "hybrid"
    limit: int = Field(10, ge=1, le=LARGEST_PAGE)
    offset: int = Field(0, ge=0, le=DEEPEST_ROW)
    where: str | dict[str, Any] | None = Field(
        None, description="A condition such as category = 'mixing' and confidence >= 0.8, its "
        "syntax tree, or an object of columns and values: {\"category\": \"mixing\"}.",
    )  # fmt: skip
    weight: float = Field(
        DEFAULT_WEIGHT, ge=0, le=1, description="Weight of the keywords in a hybrid search."
    )
    passages: bool = Field(
        default=False, description="Return passages, not rows, of a collection that splits texts."
    )


class SearchResults(BaseModel):
    collection: str
    query: str
    mode: Mode
    hits: list[Hit]
    limit: int
    offset: int
    model: str
    complete: bool = Field(
        description="False while the keyword index lacks rows, which only meaning can find."
    )
    took_ms: float


class SuggestContext(BaseModel):
    """Facts about the track, all optional."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(portable_json)]]

    type: str | None = Field(None, max_length=200, description="Topic of the advice: mixing, …")
    mood: str | None = Field(None, max_length=200)
    genre: str | None = Field(None, max_length=200)
    bpm: float | None = Field(None, ge=0, le=1000)
    track_type: str | None = Field(None, max_length=200, description="vocals, bass, drums, …")


class SuggestRequest(Body):
    """A request for advice."""

    context: SuggestContext = Field(default_factory=SuggestContext)
    prompt: str | None = None
    limit: int = Field(5, ge=1, le=30)
    collection: Name | None = None


class Suggestion(BaseModel):
    id: str
    type: str
    title: str
    description: str
    parameters: dict[str, Any]
    confidence: float | None
    category: str | None
    score: float
    reason: str


class Suggestions(BaseModel):
    collection: str
    suggestions: list[Suggestion]
    context: SuggestContext
    timestamp: datetime
    message: str | None = Field(None, description="The reason, if there are no suggestions.")


# --- map ------------------------------------------------------------------------------------------


class Map(BaseModel):
    """Columns of equal length, with one entry for each row."""

    collection: str
    method: Literal["pca"]
    total: int
    count: int
    keys: list[str]
    x: list[float]
    y: list[float]
    titles: list[str]
    categories: list[str | None]
    computed_at: datetime


class Place(BaseModel):
    x: float
    y: float


# --- upsert ---------------------------------------------------------------------------------------


class UpsertRow(Body):
    id: Annotated[str, Field(min_length=1, max_length=MAX_KEY_LENGTH)] | int
    text: str


class UpsertRequest(Body):
    """Rows to embed and store. A row is stored only if its text equals the text in the table."""

    rows: list[UpsertRow] = Field(min_length=1)
    collection: Name | None = None


class Skipped(BaseModel):
    id: str
    reason: str


class Failed(BaseModel):
    id: str
    error: str


class Upserted(BaseModel):
    collection: str
    success: bool = Field(description="True if no row failed.")
    processed: int = Field(description="Rows in the request.")
    updated: int = Field(description="Rows that got a new vector.")
    skipped: list[Skipped]
    failed: list[Failed]
    dimensions: int
    model: str
    took_ms: float


# --- health, WebSockets, actions ------------------------------------------------------------------


class Health(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    status: Literal["ready"]
    database: str
    problems: int = Field(description="Problems of all collections. See: /api/status.")


class SocketStatus(BaseModel):
    clients: int
    hosts: list[str] = Field(description="Clients that declared the role host.")
    topics: dict[str, int] = Field(description="Number of subscribers by topic.")
    dropped: int


class ActionEntry(BaseModel):
    """An action that a studio offers."""

    model_config = ConfigDict(extra="allow")

    id: int | str
    name: str
    title: str
    category: str
    description: str
    contexts: list[str]
    shortcut: str | None
    undoable: bool


class Actions(BaseModel):
    actions: list[ActionEntry]


class Problem(BaseModel):
    """An error (RFC 9457). On /v1 it also has the member `error` of OpenAI's API."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[dict[str, Any]] | None = None
    error: dict[str, Any] | None = None
