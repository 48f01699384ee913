"""Measure how well a search ranks, over judged queries in BEIR's folder layout.

A folder holds `corpus.jsonl` (_id, title, text), `queries.jsonl` (_id, text) and `qrels/*.tsv` or
`qrels.tsv` (query-id, corpus-id, score). The measures are those of trec_eval: nDCG uses the judged
score as gain and log2(rank + 1) as discount. Means cover the queries that have a relevant row.
"""

from __future__ import annotations

import asyncio
import csv
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from backline import errors, loading
from backline.embedders.base import Embedder
from backline.postgres.store import Store
from backline.search.query import (
    DEFAULT_WEIGHT,
    Mode,
    Query,
    clean_text,
    embed_query,
    rank_rows,
)
from backline.types import Collection, Model, Splitting

DEPTH: Final = 100
RESAMPLES: Final = 10_000
TEMPLATE: Final = "{title} {text}"
_SPLITS: Final = ("test", "dev", "train")

Judgments = Mapping[str, Mapping[str, int]]


# --- measures -------------------------------------------------------------------------------------


def ndcg(ranking: Sequence[str], relevance: Mapping[str, int], k: int = 10) -> float:
    """Return the normalized discounted cumulative gain at `k`; 0 without a relevant row."""
    ideal = _gain(sorted(relevance.values(), reverse=True)[:k])
    return _gain([relevance.get(key, 0) for key in ranking[:k]]) / ideal if ideal else 0.0


def _gain(scores: Iterable[int]) -> float:
    return sum(score / math.log2(rank + 1) for rank, score in enumerate(scores, start=1))


def recall(ranking: Sequence[str], relevance: Mapping[str, int], k: int = 100) -> float:
    """Return the share of the relevant rows that are among the first `k`."""
    relevant = {key for key, score in relevance.items() if score > 0}
    return len(relevant & set(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], relevance: Mapping[str, int], k: int = 10) -> float:
    """Return 1 / rank of the first relevant row; 0 if the first `k` contain none."""
    for rank, key in enumerate(ranking[:k], start=1):
        if relevance.get(key, 0) > 0:
            return 1 / rank
    return 0.0


def precision_at_1(ranking: Sequence[str], relevance: Mapping[str, int]) -> float:
    """Return 1 if the first row is relevant, else 0."""
    return float(bool(ranking) and relevance.get(ranking[0], 0) > 0)


# --- data -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dataset:
    """Judged queries; `corpus` is None if the rows are expected in the database."""

    name: str
    split: str
    corpus: Path | None
    queries: Mapping[str, str]
    judgments: Judgments


def read_dataset(folder: Path, split: str | None = None) -> Dataset:
    """Read a folder's judgments of `split`, or the first split of test, dev and train.

    Queries without a relevant row are dropped.

    Raises:
        InputFileError: a file is missing or does not parse; the message names it.
    """
    file = _judgments_file(folder, split)
    judgments: dict[str, dict[str, int]] = {}
    for query, row, score in _judgment_rows(file):
        if score > 0:
            judgments.setdefault(query, {})[row] = score
    texts = _judged_queries(folder / "queries.jsonl", file, judgments)
    corpus = folder / "corpus.jsonl"
    return Dataset(
        folder.resolve().name, file.stem, corpus if corpus.is_file() else None, texts, judgments
    )


def _judgments_file(folder: Path, split: str | None) -> Path:
    files = sorted([*folder.glob("qrels/*.tsv"), *folder.glob("qrels.tsv")])
    if not files:
        raise errors.InputFileError(
            f"{folder} holds no judgments. Expected qrels/test.tsv with query-id, corpus-id, score."
        )
    by_split = {file.stem: file for file in reversed(files)}
    for name in [split] if split else [*_SPLITS, files[0].stem]:
        if name in by_split:
            return by_split[name]
    raise errors.InputFileError(
        f"{folder} has no split {split!r}; it has: {', '.join(file.stem for file in files)}."
    )


def _judgment_rows(file: Path) -> Iterator[tuple[str, str, int]]:
    with file.open(newline="", encoding="utf-8") as text:
        for number, row in enumerate(csv.reader(text, delimiter="\t"), start=1):
            if number == 1 and row[-1:] == ["score"]:
                continue
            try:
                query, key, score = row
                yield query, key, int(score)
            except ValueError:
                raise errors.InputFileError(
                    f"{file}, line {number} is not query-id, corpus-id and score between tabs."
                ) from None


def _judged_queries(file: Path, qrels: Path, judgments: Judgments) -> dict[str, str]:
    """Return the texts of the judged queries, and raise InputFileError if one is missing."""
    texts = {query: text for query, text in _queries(file) if query in judgments}
    missing = sorted(judgments.keys() - texts.keys())
    if missing:
        raise errors.InputFileError(f"{file} has no query {missing[0]!r}, which {qrels} judges.")
    if not texts:
        raise errors.InputFileError(f"{file} has no judged query.")
    return texts


def _queries(file: Path) -> Iterator[tuple[str, str]]:
    if not file.is_file():
        raise errors.InputFileError(f"There is no file {file}.")
    for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            yield str(record["_id"]), str(record["text"])
        except (ValueError, KeyError, TypeError):
            raise errors.InputFileError(
                f"{file}, line {number} is not a JSON object with _id and text."
            ) from None


async def load_corpus(
    store: Store, dataset: Dataset, model: Model, splitting: Splitting | None = None
) -> Collection:
    """Load a dataset's corpus into a new table and declare it as a collection, still unfilled.

    A corpus that was kept from an earlier evaluation of the same model and splitting is reused.

    Raises:
        InputFileError: the dataset has no corpus, or the corpus does not parse.
    """
    if dataset.corpus is None:
        raise errors.InputFileError(
            f"{dataset.name} has no corpus.jsonl. Name the collection that holds its rows: "
            "--collection NAME."
        )
    name = "eval_" + re.sub(r"\W", "_", dataset.name)[:40]
    existing = next((each for each in await store.collections() if each.name == name), None)
    if existing is not None:
        if existing.model.identity == model.identity and existing.splitting == splitting:
            return existing
        await unload(store, existing)
    await loading.load(store, dataset.corpus, f'public."{name}"', key="_id")
    table = await store.find_table(f'public."{name}"')
    await store.add_collection(
        name,
        table["oid"],
        key=None,
        template=TEMPLATE,
        column="embedding",
        model=model,
        splitting=splitting,
        into=None if splitting is None else name,
    )
    return await store.collection(name)


async def unload(store: Store, collection: Collection) -> None:
    """Drop the collection and the table of a corpus."""
    await store.drop_collection(collection, drop_column=collection.into is not None)
    table = sql.Identifier(collection.table_schema, collection.table_name)
    await store.connector.execute(sql.SQL("drop table {}").format(table))


# --- runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of one mode. Each array has one value a query, in the dataset's order.

    Attributes:
        search_ms: milliseconds of the search alone.
        embedding_ms: milliseconds of embedding the query.
    """

    mode: Mode
    rankings: Mapping[str, Sequence[str]]
    ndcg_10: NDArray[np.float64]
    recall_100: NDArray[np.float64]
    mrr_10: NDArray[np.float64]
    first: NDArray[np.float64]
    search_ms: NDArray[np.float64]
    embedding_ms: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        total = self.search_ms + self.embedding_ms
        return {
            "mode": self.mode,
            "queries": len(self.ndcg_10),
            "ndcg@10": round(float(self.ndcg_10.mean()), 4),
            "recall@100": round(float(self.recall_100.mean()), 4),
            "mrr@10": round(float(self.mrr_10.mean()), 4),
            "first_relevant": round(float(self.first.mean()), 4),
            "p50_ms": round(float(np.percentile(total, 50)), 1),
            "p99_ms": round(float(np.percentile(total, 99)), 1),
            "search_p50_ms": round(float(np.percentile(self.search_ms, 50)), 1),
            "search_p99_ms": round(float(np.percentile(self.search_ms, 99)), 1),
        }


async def evaluate(
    store: Store,
    collection: Collection,
    embedder: Embedder | None,
    dataset: Dataset,
    mode: Mode = "hybrid",
    weight: float | None = None,
) -> Evaluation:
    """Run every query in turn and measure the rankings.

    Raises:
        UsageError, ModelMismatchError: as `backline.search.search`.
    """
    rankings: dict[str, list[str]] = {}
    times: list[tuple[float, float]] = []
    weight = DEFAULT_WEIGHT if weight is None else weight
    for key, text in dataset.queries.items():
        query = Query(clean_text(text), mode, DEPTH, weight=weight)
        started = time.perf_counter()
        vector = None
        if mode != "keyword":
            corrected = await store.query_text(collection, query.text)
            vector = await embed_query(collection, embedder, corrected)
        embedded = time.perf_counter()
        hits = await rank_rows(store, collection, query, query.text, vector)
        times.append((1000 * (time.perf_counter() - embedded), 1000 * (embedded - started)))
        rankings[key] = [hit.key for hit in hits]
    return await asyncio.to_thread(measure, mode, rankings, dataset.judgments, np.array(times))


def measure(
    mode: Mode,
    rankings: Mapping[str, Sequence[str]],
    judgments: Judgments,
    times: NDArray[np.float64],
) -> Evaluation:
    """Compute all measures; `times` has shape (queries, 2): search and embedding, in ms."""
    pairs = [(ranking, judgments[key]) for key, ranking in rankings.items()]
    return Evaluation(
        mode,
        rankings,
        np.array([ndcg(*pair) for pair in pairs]),
        np.array([recall(*pair) for pair in pairs]),
        np.array([reciprocal_rank(*pair) for pair in pairs]),
        np.array([precision_at_1(*pair) for pair in pairs]),
        times[:, 0],
        times[:, 1],
    )


# --- comparison -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired bootstrap test of the difference between two means over the same queries.

    `low` and `high` are the 95 % confidence interval of the difference; `p_value` is two-sided.
    """

    difference: float
    low: float
    high: float
    p_value: float


def compare(
    one: NDArray[np.float64], other: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two systems; each array has one value a query, in the same order.

    The p-value is the share of resamples of the centered differences with a mean at least as far
    from zero as the observed one (Efron and Tibshirani 1993, chapter 16).
    """
    differences = one - other
    observed = float(differences.mean())
    random = np.random.default_rng(seed)
    picks = random.integers(0, len(differences), size=(resamples, len(differences)))
    means = differences[picks].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    beyond = np.abs(means - observed) >= abs(observed)
    p_value = float((1 + beyond.sum()) / (1 + resamples)) if observed else 1.0
    return Comparison(observed, float(low), float(high), p_value)
