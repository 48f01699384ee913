"""Compare the search of two collections over the same table, before one takes the other's place.

The serving collection is the one that users search, the candidate is to replace it. Each query is
embedded by both models, and both collections are searched as users search them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from backline import errors
from backline.collections import check_dimensions, check_model, require_column
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter, limited_call
from backline.postgres.store import Store
from backline.search import agreement, evaluate
from backline.search.indexes import ensure_index, ensure_keywords
from backline.search.query import Mode, Query, clean_text, rank_rows
from backline.search.query_sets import QuerySet, require_rows
from backline.sql import queries
from backline.types import SUFFIXES, Collection, SearchHit

COMPARED: Final[tuple[Mode, ...]] = ("semantic", "hybrid")
MOVED: Final = 10
TOP: Final = 3
COMPLETE: Final = 0.999
"""Share of the rows with text that have a vector in a complete collection. Rows inserted within the
last seconds have none yet."""

_TITLE: Final = 80
_EQUAL: Final = 1 - 1e-9  # the correlation of equal rankings, rounded
_BATCH: Final = 50
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Side:
    """A collection and the embedder of its model."""

    collection: Collection
    embedder: Embedder
    limiter: Limiter = field(default_factory=Limiter)


@dataclass(frozen=True, slots=True)
class Filled:
    """How many of the rows with text have a vector of the collection's model."""

    vectors: int
    rows: int

    @property
    def complete(self) -> bool:
        return self.vectors >= COMPLETE * self.rows


class RankedRow(NamedTuple):
    """A row of a ranking, with a short title."""

    key: str
    title: str


@dataclass(frozen=True, slots=True)
class ComparedQuery:
    """One query: the keys that both rankings share, their agreement, and the first rows of each.

    The nDCG is that of a judged query, else None.
    """

    query: str
    shared: int
    overlap: float
    rbo: float
    serving: tuple[RankedRow, ...]
    candidate: tuple[RankedRow, ...]
    serving_ndcg: float | None = None
    candidate_ndcg: float | None = None

    @property
    def gain(self) -> float:
        return (self.candidate_ndcg or 0.0) - (self.serving_ndcg or 0.0)

    def as_dict(self) -> dict[str, Any]:
        rows = {side: [row._asdict() for row in getattr(self, side)] for side in _SIDES}
        numbers = {name: _rounded(getattr(self, name)) for name in _NUMBERS}
        return {"query": self.query, "shared": self.shared, **numbers, **rows}


_SIDES: Final = ("serving", "candidate")
_NUMBERS: Final = ("overlap", "rbo", "serving_ndcg", "candidate_ndcg")


@dataclass(frozen=True, slots=True)
class ModeComparison:
    """The comparison in one search mode, over all queries."""

    mode: Mode
    queries: Sequence[ComparedQuery]
    judged: bool

    def moved(self) -> list[ComparedQuery]:
        """Return the queries whose rankings agree least, those that agree fully left out."""
        by_agreement = sorted(self.queries, key=lambda each: each.rbo)
        return [each for each in by_agreement[:MOVED] if each.rbo < _EQUAL]

    def worse(self) -> list[ComparedQuery]:
        """Return the judged queries that the candidate answers worse, by their loss."""
        return [
            each for each in sorted(self.queries, key=lambda q: q.gain)[:MOVED] if each.gain < 0
        ]

    def as_dict(self) -> dict[str, Any]:
        overlaps = np.array([each.overlap for each in self.queries])
        rbos = np.array([each.rbo for each in self.queries])
        counts = np.bincount([each.shared for each in self.queries], minlength=agreement.DEPTH + 1)
        return {
            "mode": self.mode,
            "unchanged": sum(each.rbo >= _EQUAL for each in self.queries),
            "overlap": {**_spread(overlaps), "histogram": counts.tolist()},
            "rbo": _spread(rbos),
            "moved": [each.as_dict() for each in self.moved()],
            "ndcg": self._ndcg() if self.judged else None,
        }

    def _ndcg(self) -> dict[str, Any]:
        serving, candidate = (
            np.array([getattr(each, f"{side}_ndcg") for each in self.queries]) for side in _SIDES
        )
        test = evaluate.compare(candidate, serving)
        return {
            "serving": _rounded(float(serving.mean())),
            "candidate": _rounded(float(candidate.mean())),
            **{name: _rounded(value) for name, value in asdict(test).items()},
            "worse": [each.as_dict() for each in self.worse()],
        }


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    low, median = np.percentile(values, [10, 50])
    return {
        "mean": round(float(values.mean()), 4),
        "median": round(float(median), 4),
        "p10": round(float(low), 4),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


@dataclass(frozen=True, slots=True)
class CollectionComparison:
    """The comparison of a candidate with the collection that serves."""

    serving: Collection
    candidate: Collection
    filled: Filled
    asked: QuerySet
    modes: Sequence[ModeComparison]

    def as_dict(self) -> dict[str, Any]:
        """Return what is stored, printed and sent."""
        return {
            "serving": _described(self.serving),
            "candidate": {
                **_described(self.candidate), **asdict(self.filled),
                "complete": self.filled.complete,
            },
            "source": self.asked.source,
            "name": self.asked.name,
            "queries": len(self.asked.texts),
            "modes": [mode.as_dict() for mode in self.modes],
        }  # fmt: skip


def _described(collection: Collection) -> dict[str, str]:
    return {"collection": collection.name, "model": str(collection.model)}


# --- what is compared -----------------------------------------------------------------------------


async def pair(store: Store, name: str | None, other: str | None) -> tuple[Collection, Collection]:
    """Return the serving collection and its candidate, by default the one that a change fills.

    Raises:
        CollectionNotFoundError: there is no such collection, or no candidate.
        UsageError: they are not over the same rows.
    """
    serving = await store.collection(name)
    sought = other or serving.family + SUFFIXES["filling"]
    existing = {each.name: each for each in await store.collections()}
    if sought not in existing:
        raise errors.CollectionNotFoundError(
            f"There is no collection {sought!r} to compare {serving.name!r} with. Fill one: "
            f"{errors.command('model', 'change', serving.name, '--to')} MODEL. Or name another "
            "collection over the same table: --with NAME."
        )
    candidate = existing[sought]
    if (serving.table, serving.key_columns) != (candidate.table, candidate.key_columns):
        raise errors.UsageError(
            f"{serving.name!r} is over {serving.table} ({', '.join(serving.key_columns)}) and "
            f"{candidate.name!r} over {candidate.table} ({', '.join(candidate.key_columns)}). "
            "Compare collections over the same table and key."
        )
    return serving, candidate


async def filled(store: Store, collection: Collection, *, partial: bool = False) -> Filled:
    """Return how far a candidate is filled.

    Args:
        store: the database.
        collection: the candidate.
        partial: whether to allow one that is not complete.

    Raises:
        ConfigurationError: it is not complete.
    """
    coverage = await store.coverage(collection)
    row = await store.connector.fetch_one(
        queries("search.sql")["vectors_of"], {"collection": collection.id}
    )
    result = Filled(row["vectors"], max(0, coverage.rows - coverage.blank))
    if result.rows == 0:
        raise errors.ConfigurationError(
            f"No row of {collection.name!r} has text, so there is nothing to compare."
        )
    if not result.complete and not partial:
        raise errors.ConfigurationError(
            f"{collection.name!r} has vectors of {result.vectors:,} of {result.rows:,} rows. A "
            "comparison would count the other rows as lost. Fill it first: "
            f"{_filled_by(collection)}. Or compare the incomplete vectors: --partial."
        )
    return result


def _filled_by(collection: Collection) -> str:
    if collection.role == "filling":
        return errors.command("model", "change", collection.family)
    return errors.command("backfill", collection.name)


# --- the comparison -------------------------------------------------------------------------------


async def compare(
    store: Store, serving: Side, candidate: Side, asked: QuerySet, *, partial: bool = False
) -> CollectionComparison:
    """Search both collections for every query, and compare the rankings.

    The first search of a large table builds its indexes, as any search does; an incomplete
    candidate gets no vector index.

    Args:
        store: the database.
        serving: the collection that users search.
        candidate: the collection to replace it.
        asked: the queries.
        partial: whether to compare an incomplete candidate.

    Raises:
        ConfigurationError: the candidate is not complete, or has no rows with text.
        UsageError: a judged key is that of no row.
        ModelMismatchError, DimensionMismatchError: an embedder is not of its collection's model.
        EmbedderError: a provider failed repeatedly.
    """
    progress = await filled(store, candidate.collection, partial=partial)
    if asked.judgments is not None:
        await require_rows(store, serving.collection, asked)
    await _index(store, serving.collection, complete=True)
    await _index(store, candidate.collection, complete=progress.complete)
    texts = [clean_text(text) for text in asked.texts.values()]
    vectors = [await _embed(side, texts) for side in (serving, candidate)]
    modes = [
        ModeComparison(
            mode,
            [
                await _compare_query(store, (serving, candidate), mode, asked, key, pair)
                for key, *pair in zip(asked.texts, *vectors, strict=True)
            ],
            asked.judgments is not None,
        )
        for mode in COMPARED
    ]
    return CollectionComparison(serving.collection, candidate.collection, progress, asked, modes)


async def _index(store: Store, collection: Collection, *, complete: bool) -> None:
    require_column(collection)
    with suppress(errors.ReadOnlyError):
        if complete:
            await ensure_index(store, collection)
        else:
            await ensure_keywords(store, collection)


async def _embed(side: Side, texts: Sequence[str]) -> list[list[float]]:
    """Return the vectors of queries, embedded in batches."""
    check_model(side.collection, side.embedder.model)
    check_dimensions(side.collection, side.embedder.model)
    vectors: list[list[float]] = []
    for start in range(0, len(texts), _BATCH):
        batch = [side.embedder.truncate(text) for text in texts[start : start + _BATCH]]
        vectors += await _embed_batch(side, batch)
    return vectors


async def _embed_batch(side: Side, batch: Sequence[str]) -> list[list[float]]:
    """Embed a batch, again after a failure that may pass. The limiter waits in between."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(errors.RateLimitedError, errors.ProviderUnavailableError):
            return await _embed_once(side, batch)
    return await _embed_once(side, batch)


async def _embed_once(side: Side, batch: Sequence[str]) -> list[list[float]]:
    async with limited_call(side.limiter, sum(side.embedder.count_tokens(batch))):
        vectors = await side.embedder.embed(batch, purpose="query")
    values: list[list[float]] = vectors.tolist()
    return values


async def _compare_query(
    store: Store, sides: Sequence[Side], mode: Mode, asked: QuerySet, key: str,
    vectors: Sequence[Sequence[float]],
) -> ComparedQuery:  # fmt: skip
    """Search both sides at once, so that few edits happen in between."""
    text = clean_text(asked.texts[key])
    # A judged set is searched as deep as `backline eval` searches, for the same nDCG.
    depth = agreement.DEPTH if asked.judgments is None else evaluate.DEPTH
    serving, candidate = await asyncio.gather(
        *(
            rank_rows(store, side.collection, Query(text, mode, depth), text, vector)
            for side, vector in zip(sides, vectors, strict=True)
        )
    )
    one, other = ([hit.key for hit in hits[: agreement.DEPTH]] for hits in (serving, candidate))
    relevance = None if asked.judgments is None else asked.judgments[key]
    return ComparedQuery(
        asked.texts[key],
        agreement.shared(one, other),
        agreement.overlap(one, other),
        agreement.rank_biased_overlap(one, other),
        _top(serving),
        _top(candidate),
        None if relevance is None else evaluate.ndcg(one, relevance, agreement.DEPTH),
        None if relevance is None else evaluate.ndcg(other, relevance, agreement.DEPTH),
    )


def _top(hits: Sequence[SearchHit]) -> tuple[RankedRow, ...]:
    return tuple(
        RankedRow(hit.key, str(hit.row.get("title") or hit.content)[:_TITLE]) for hit in hits[:TOP]
    )


# --- stored results -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    """A comparison as it was stored, in the form of `CollectionComparison.as_dict`."""

    made_at: datetime
    result: dict[str, Any]


async def store_evaluation(store: Store, comparison: CollectionComparison) -> datetime:
    """Store a comparison under the name of the serving collection; return when it was made."""
    values = {
        "collection": comparison.serving.name, "model": comparison.serving.model_id,
        "candidate_model": comparison.candidate.model_id, "result": Jsonb(comparison.as_dict()),
    }  # fmt: skip
    row = await store.connector.fetch_one(queries("search.sql")["store_evaluation"], values)
    made_at: datetime = row["made_at"]
    return made_at


async def latest_evaluation(store: Store, collection: Collection) -> StoredEvaluation | None:
    """Return the latest stored comparison of a collection."""
    statement = queries("search.sql")["latest_evaluation"]
    rows = await store.connector.fetch(statement, {"collection": collection.name})
    return StoredEvaluation(**rows[0]) if rows else None
