"""The queries that two collections are compared on: kept ones, those of a file, or a judged set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from backline import errors, pgvector
from backline.postgres.store import Store
from backline.search import evaluate
from backline.search.query import clean_text
from backline.sql import queries
from backline.types import Collection

QUERIES: Final = 500
"""Queries that are compared by default, the latest first. If overlaps deviate by 0.25, the mean of
500 has a 95 % interval of 0.02 on either side."""


Source: TypeAlias = Literal["kept", "file", "judged"]


@dataclass(frozen=True, slots=True)
class QuerySet:
    """The queries of a comparison by their id, and the judgments of a judged set."""

    source: Source
    texts: Mapping[str, str]
    judgments: evaluate.Judgments | None = None
    name: str | None = None  # of the file or the judged set


async def kept_queries(store: Store, collection: Collection, limit: int = QUERIES) -> QuerySet:
    """Return the queries that the collection was asked last.

    Raises:
        ConfigurationError: none is kept.
    """
    values = {"collection": collection.name, "limit": limit}
    rows = await store.connector.fetch(queries("search.sql")["queries_by_meaning"], values)
    if not rows:
        raise errors.ConfigurationError(
            f"No semantic or hybrid query of {collection.name!r} is kept. Set "
            "BACKLINE_KEEP_QUERIES=true where it is searched, and wait for queries. Or compare on "
            "queries of your own: --queries FILE, or --judged FOLDER."
        )
    return QuerySet("kept", {str(at): row["text"] for at, row in enumerate(rows)})


def read_queries(file: Path) -> QuerySet:
    """Return the distinct queries of a file: one a line, or objects with `text` in a .jsonl file.

    Raises:
        InputFileError: the file cannot be read or does not parse.
        UsageError: it has no query.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InputFileError(f"{file} cannot be read: {error}.") from None
    read = _json_line if file.suffix == ".jsonl" else _plain_line
    texts = [read(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return listed_queries(texts, file.name)


def _plain_line(_file: Path, _number: int, line: str) -> str:
    return line


def _json_line(file: Path, number: int, line: str) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError):
        raise errors.InputFileError(
            f"{file}, line {number} is not a JSON object with text."
        ) from None


def listed_queries(texts: Iterable[str], name: str) -> QuerySet:
    """Return the distinct queries of a list; `name` says where it is from.

    Raises:
        UsageError: no query has text.
    """
    distinct = dict.fromkeys(text for text in map(clean_text, texts) if text)
    if not distinct:
        raise errors.UsageError(f"There is no query with text in {name}. Write one a line.")
    return QuerySet("file", {str(at): text for at, text in enumerate(distinct)}, name=name)


def judged_queries(dataset: evaluate.Dataset) -> QuerySet:
    """Return the queries of a judged set."""
    return QuerySet("judged", dataset.queries, dataset.judgments, dataset.name)


async def require_rows(store: Store, collection: Collection, asked: QuerySet) -> None:
    """Raise unless every judged row exists.

    Raises:
        UsageError: a judged key is that of no row.
    """
    keys = sorted({key for judged in (asked.judgments or {}).values() for key in judged})
    values = {"collection": collection.id, "keys": pgvector.texts(keys)}
    missing = await store.connector.fetch_one(queries("search.sql")["missing_rows"], values)
    if missing["count"]:
        raise errors.UsageError(
            f"{collection.table} has no row with the key {missing['key']!r}, which "
            f"{asked.name} judges; {missing['count']:,} of {len(keys):,} judged keys are missing. "
            "Judge rows that exist, with the keys that backline search prints."
        )
