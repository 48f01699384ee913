"""Run one query against one collection. `backline.search` does the ranking.

That SQL function is in sql/schema/functions/search.sql.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, get_args

from backline import errors
from backline.collections import check_dimensions, check_model, require_column
from backline.embedders.base import Embedder
from backline.search.filters import Filter, parse, validate
from backline.store import JobStore
from backline.types import Collection, Passage, SearchHit

Mode: TypeAlias = Literal["hybrid", "semantic", "keyword"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

DEFAULT_WEIGHT: Final = 0.4
"""Weight of keywords against meaning in a hybrid search. The benchmarks show how it was chosen."""

PASSAGES_OF_A_HIT: Final = 3
LARGEST_PAGE: Final = 1000
DEEPEST_ROW: Final = 10_000
MARK_BEGIN: Final = "\ue000"
MARK_END: Final = "\ue001"


@dataclass(frozen=True, slots=True)
class Query:
    """A search query and its options.

    Attributes:
        mode: "hybrid" by meaning and keywords, "semantic" by meaning, "keyword" by words.
        offset: rows to skip, for the pages after the first.
        where: a condition on the table's columns; see `backline.search.filters`.
        weight: of the keywords in a hybrid search, from 0 (meaning only) to 1 (keywords only).
        snippets: whether hits carry the passages that contain the query's words.
        passages: whether hits are passages, not rows, in a collection of passages.
    """

    text: str
    mode: Mode = "hybrid"
    limit: int = 10
    offset: int = 0
    where: str | Filter | None = None
    weight: float = DEFAULT_WEIGHT
    snippets: bool = False
    passages: bool = False


async def search(
    store: JobStore, collection: Collection, embedder: Embedder | None, query: Query | str
) -> list[SearchHit]:
    """Return the rows that match a query, best first.

    The embedder must be of the collection's model. Mode "keyword" needs none.

    Raises:
        UsageError: the query is empty, a number is out of range, or the filter does not parse.
        ModelMismatchError: the embedder's model is not the collection's.
        TableNotFoundError, ColumnNotFoundError: the table or its vector column does not exist.
        ColumnNotFoundError: the filter names a column that the table does not have.
    """
    query = Query(query) if isinstance(query, str) else query
    text = clean_text(query.text)
    check(query, text)
    require_column(collection)
    vector = None
    if query.mode != "keyword":
        corrected = await store.query_text(collection, text)
        vector = await embed_query(collection, embedder, corrected)
    return await rank_rows(store, collection, query, text, vector)


async def semantic(
    store: JobStore, collection: Collection, embedder: Embedder, query: str, limit: int = 10
) -> list[SearchHit]:
    """Return the rows nearest in meaning to the query, best first; scores are cosines."""
    return await search(store, collection, embedder, Query(query, "semantic", limit))


async def keyword(
    store: JobStore, collection: Collection, query: str, limit: int = 10
) -> list[SearchHit]:
    """Return the rows that share words with the query, best first; scores are BM25."""
    return await search(store, collection, None, Query(query, "keyword", limit))


async def rank_rows(
    store: JobStore, collection: Collection, query: Query, text: str, vector: Sequence[float] | None
) -> list[SearchHit]:
    """Return the hits for a query that is embedded already; `vector` is None in mode "keyword"."""
    condition = _condition(query.where)
    if query.passages:
        check_passages(collection, query)
    # The best passages are all in as many rows.
    last = query.offset + query.limit
    rows = await store.search_rows(
        {
            "collection": collection.id, "mode": query.mode, "text": text,
            "vector": None if vector is None else list(vector),
            "limit": last if query.passages else query.limit,
            "offset": 0 if query.passages else query.offset, "weight": query.weight,
            "filter": None if condition is None else json.dumps(condition),
            "snippets": query.snippets, "passages": last if query.passages else PASSAGES_OF_A_HIT,
        },
    )  # fmt: skip
    hits = [_hit(row) for row in rows]
    return _by_passage(hits, query)[query.offset : last] if query.passages else hits


def check_passages(collection: Collection, query: Query) -> None:
    """Raise an error unless a search can return passages.

    Raises:
        UsageError: rows are not split, or the mode does not compare passages.
    """
    if collection.splitting is None:
        raise errors.UsageError(
            f"The texts of {collection.name!r} are not split into passages. Search without "
            "passages, or declare the collection anew with --passages."
        )
    if query.mode == "keyword":
        raise errors.UsageError(
            "Passages are ranked by meaning. Use the mode semantic or hybrid, or search rows."
        )


def _by_passage(hits: Sequence[SearchHit], query: Query) -> list[SearchHit]:
    """Return one hit for each passage, best first.

    A passage has the score of its row, less its distance to the row's best passage.
    """
    meaning = 1.0 if query.mode == "semantic" else 1 - query.weight
    found = [
        replace(
            hit,
            score=hit.score - meaning * (hit.passages[0].score - passage.score),
            parts={**hit.parts, "dense": passage.score},
            snippet=hit.snippet if passage is hit.passages[0] else None,
            passages=(passage,),
        )
        for hit in hits
        for passage in hit.passages
    ]
    return sorted(found, key=lambda hit: -hit.score)


def _condition(where: str | Filter | None) -> Filter | None:
    if where is None:
        return None
    return parse(where) if isinstance(where, str) else validate(where)


def clean_text(text: str) -> str:
    """Return the query without NUL and lone surrogates, which Postgres and tokenizers reject."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8").strip()


def check(query: Query, text: str) -> None:
    """Raise an error for a query that cannot run.

    Raises:
        UsageError: names the option that is out of range.
    """
    if not text:
        raise errors.UsageError("The query is empty. Enter the text to search for.")
    if query.mode not in MODES:
        raise errors.UsageError(f"The mode is {query.mode!r}; use {', '.join(MODES)}.")
    if not 1 <= query.limit <= LARGEST_PAGE:
        raise errors.UsageError(f"The limit is {query.limit}; it must be 1 to {LARGEST_PAGE:,}.")
    if not 0 <= query.offset <= DEEPEST_ROW:
        raise errors.UsageError(f"The offset is {query.offset}; it must be 0 to {DEEPEST_ROW:,}.")
    if not 0 <= query.weight <= 1:
        raise errors.UsageError(f"The weight is {query.weight}; it must be 0 to 1.")


async def embed_query(collection: Collection, embedder: Embedder | None, text: str) -> list[float]:
    """Return the query's vector, computed by the collection's own model.

    Raises:
        UsageError: there is no embedder.
        ModelMismatchError, DimensionMismatchError: its vectors do not compare with the column's.
    """
    if embedder is None:
        raise errors.UsageError("Searching by meaning needs an embedder. Or search by keyword.")
    check_model(collection, embedder.model)
    check_dimensions(collection, embedder.model)
    [vector] = await embedder.embed([embedder.truncate(text)], purpose="query")
    values: list[float] = vector.tolist()
    return values


def _hit(row: Mapping[str, Any]) -> SearchHit:
    parts = {name: row[name] for name in ("dense", "keyword") if row[name] is not None}
    record: dict[str, Any] = row["record"]
    return SearchHit(
        row["key"], row["score"], parts, row["content"], record, to_html(row["snippet"]),
        tuple(Passage(**each) for each in row["passages"] or () if each["score"] is not None),
    )  # fmt: skip


def to_html(snippet: str | None) -> str | None:
    """Return a snippet as HTML, with everything escaped except the marks."""
    if snippet is None:
        return None
    escaped = html.escape(snippet, quote=False)
    return escaped.replace(MARK_BEGIN, "<mark>").replace(MARK_END, "</mark>")
