"""One query against one collection. The ranking itself is the SQL function `backline.search`."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from backline import errors
from backline.collections import require_column
from backline.embedders.base import Embedder
from backline.search.filters import Filter, checked, parse
from backline.store import JobStore
from backline.types import Collection, SearchHit

Mode: TypeAlias = Literal["hybrid", "semantic", "keyword"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

# How much the keywords count beside the meaning; docs/explanation/search.md has the measurements.
DEFAULT_WEIGHT: Final = 0.4
LARGEST_PAGE: Final = 1000
DEEPEST_ROW: Final = 10_000
MARK_BEGIN: Final = "\ue000"
MARK_END: Final = "\ue001"


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of a collection.

    Attributes:
        mode: "hybrid" by meaning and keywords, "semantic" by meaning, "keyword" by words.
        offset: rows to leave out, for the pages after the first.
        where: a condition on the table's columns; see `backline.search.filters`.
        weight: of the keywords in a hybrid search, from 0 (meaning only) to 1 (keywords only).
        snippets: whether hits carry the passages that the query's words are in.
    """

    text: str
    mode: Mode = "hybrid"
    limit: int = 10
    offset: int = 0
    where: str | Filter | None = None
    weight: float = DEFAULT_WEIGHT
    snippets: bool = False


async def search(
    store: JobStore, collection: Collection, embedder: Embedder | None, query: Query | str
) -> list[SearchHit]:
    """The rows that answer a query, best first.

    The embedder is one of the collection's own model; mode "keyword" needs none.

    Raises:
        UsageError: the query is empty, a number is out of range, the filter does not read, or the
            keyword index is not built.
        ModelMismatchError: the collection is embedded with another model than the query would be.
        TableNotFoundError, ColumnNotFoundError: the table or its column is gone.
        ColumnNotFoundError: the filter names a column that the table does not have.
    """
    query = Query(query) if isinstance(query, str) else query
    text = clean_text(query.text)
    check(query, text)
    require_column(collection)
    vector = None
    if query.mode != "keyword":
        vector = await embed_query(collection, embedder, text)
    return await rank_rows(store, collection, query, text, vector)


async def semantic(
    store: JobStore, collection: Collection, embedder: Embedder, query: str, limit: int = 10
) -> list[SearchHit]:
    """The rows whose vectors are nearest to the query's, best first; scores are cosines."""
    return await search(store, collection, embedder, Query(query, "semantic", limit))


async def keyword(
    store: JobStore, collection: Collection, query: str, limit: int = 10
) -> list[SearchHit]:
    """The rows that share words with the query, best first; scores are BM25."""
    return await search(store, collection, None, Query(query, "keyword", limit))


async def rank_rows(
    store: JobStore, collection: Collection, query: Query, text: str, vector: Sequence[float] | None
) -> list[SearchHit]:
    """The hits for a query whose vector is at hand, None in mode "keyword"."""
    condition = query.where
    if condition is not None:
        condition = parse(condition) if isinstance(condition, str) else checked(condition)
    rows = await store.search_rows(
        {
            "collection": collection.id, "mode": query.mode, "text": text,
            "vector": None if vector is None else list(vector),
            "limit": query.limit, "offset": query.offset, "weight": query.weight,
            "filter": None if condition is None else json.dumps(condition),
            "snippets": query.snippets,
        },
    )  # fmt: skip
    return [_hit(row) for row in rows]


def clean_text(text: str) -> str:
    """The query as Postgres and a tokenizer can read it: no NUL, no half of a surrogate pair."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8").strip()


def check(query: Query, text: str) -> None:
    """Refuse what cannot be searched for.

    Raises:
        UsageError: says what is wrong with the query.
    """
    if not text:
        raise errors.UsageError("The query is empty. Say what to look for.")
    if query.mode not in MODES:
        raise errors.UsageError(f"The mode is {query.mode!r}; use {', '.join(MODES)}.")
    if not 1 <= query.limit <= LARGEST_PAGE:
        raise errors.UsageError(f"The limit is {query.limit}; it must be 1 to {LARGEST_PAGE:,}.")
    if not 0 <= query.offset <= DEEPEST_ROW:
        raise errors.UsageError(f"The offset is {query.offset}; it must be 0 to {DEEPEST_ROW:,}.")
    if not 0 <= query.weight <= 1:
        raise errors.UsageError(f"The weight is {query.weight}; it must be 0 to 1.")


async def embed_query(collection: Collection, embedder: Embedder | None, text: str) -> list[float]:
    """The query's vector, made by the collection's own model.

    Raises:
        UsageError: there is no embedder.
        ModelMismatchError, DimensionMismatchError: its vectors do not compare with the column's.
    """
    if embedder is None:
        raise errors.UsageError("Searching by meaning needs an embedder. Or search by keyword.")
    if embedder.model.identity != collection.model.identity:
        raise errors.ModelMismatchError(
            f"The collection {collection.name!r} is embedded with {collection.model}, the query "
            f"would be with {embedder.model}. Vectors of two models cannot be compared."
        )
    if collection.column_dimensions not in (None, collection.model.dimensions):
        raise errors.DimensionMismatchError(
            f"The column {collection.table}.{collection.embedding_column} holds "
            f"{collection.column_dimensions} dimensions, the model {collection.model} gives "
            f"{collection.model.dimensions}. See: backline backfill {collection.name}."
        )
    [vector] = await embedder.embed([embedder.truncate(text)], purpose="query")
    values: list[float] = vector.tolist()
    return values


def _hit(row: Mapping[str, Any]) -> SearchHit:
    parts = {name: row[name] for name in ("dense", "keyword") if row[name] is not None}
    record: dict[str, Any] = row["record"]
    return SearchHit(
        row["key"], row["score"], parts, row["content"], record, marked(row["snippet"])
    )


def marked(snippet: str | None) -> str | None:
    """A snippet as HTML: everything escaped but the marks."""
    if snippet is None:
        return None
    escaped = html.escape(snippet, quote=False)
    return escaped.replace(MARK_BEGIN, "<mark>").replace(MARK_END, "</mark>")
