"""Request and response models of the evaluation routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from backline.search import Mode
from backline.search.compare import StoredEvaluation
from backline.server.schemas import Body, Name

MAX_QUERIES = 1000


class StartEvaluation(Body):
    """A comparison to start."""

    candidate: Name | None = Field(
        None, description="The collection to compare with. Default: the filling one, `NAME@next`."
    )
    queries: (
        Annotated[
            list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_QUERIES)
        ]
        | None
    ) = Field(None, description="Default: the queries that were asked last, if they are kept.")
    partial: bool = Field(
        default=False, description="Compare a candidate that is not complete, too."
    )


class ComparedCollection(BaseModel):
    collection: str
    model: str


class Candidate(ComparedCollection):
    vectors: int = Field(description="Rows that have a vector.")
    rows: int = Field(description="Rows that have text.")
    complete: bool


class Spread(BaseModel):
    """The distribution of a measure over the queries."""

    mean: float
    median: float
    p10: float = Field(description="The tenth percentile.")


class Overlap(Spread):
    histogram: list[int] = Field(
        description="Number of queries by how many of the first ten rows both have, from 0."
    )


class RankedRow(BaseModel):
    key: str
    title: str


class ComparedQuery(BaseModel):
    """A query with the first three rows of each collection."""

    query: str
    shared: int = Field(description="Rows that are among the first ten of both.")
    overlap: float
    rbo: float = Field(description="Rank-biased overlap, 0 to 1.")
    serving_ndcg: float | None
    candidate_ndcg: float | None
    serving: list[RankedRow]
    candidate: list[RankedRow]


class Ndcg(BaseModel):
    """nDCG@10 of both, and the paired bootstrap of candidate minus serving."""

    serving: float
    candidate: float
    difference: float
    low: float = Field(description="Of the 95 % confidence interval of the difference.")
    high: float
    p_value: float
    worse: list[ComparedQuery] = Field(description="Judged queries that lost most.")


class ModeComparison(BaseModel):
    mode: Mode
    unchanged: int = Field(description="Queries with the same first ten rows in the same order.")
    overlap: Overlap
    rbo: Spread
    moved: list[ComparedQuery] = Field(description="Queries whose rankings agree least.")
    ndcg: Ndcg | None = Field(description="Null without a judged set.")


class Evaluation(BaseModel):
    """A stored comparison of two collections over the same table."""

    made_at: datetime
    serving: ComparedCollection
    candidate: Candidate
    source: Literal["kept", "file", "judged"]
    name: str | None = Field(description="Of the file or the judged set.")
    queries: int
    modes: list[ModeComparison]

    @classmethod
    def of(cls, stored: StoredEvaluation) -> Self:
        return cls(made_at=stored.made_at, **stored.result)


class LatestEvaluation(BaseModel):
    evaluation: Evaluation | None
    running: bool = Field(description="Whether this server runs one now.")
    failed: str | None = Field(description="Why the last one that was started here failed.")
