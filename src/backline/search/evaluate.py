"""How well a search ranks: the field's measures over judged queries in BEIR's folder layout.

A folder holds `corpus.jsonl` (_id, title, text), `queries.jsonl` (_id, text) and `qrels/*.tsv` or
`qrels.tsv` (query-id, corpus-id, score). The measures are those of trec_eval: nDCG with the judged
score as gain and log2(rank + 1) as discount; means are over the queries that have a relevant row.
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
from backline.search.ranking import Mode, Query, clean_text, embed_query, rank_rows
from backline.types import Collection, Model

DEPTH: Final = 100
RESAMPLES: Final = 10_000
TEMPLATE: Final = "{title} {text}"
_SPLITS: Final = ("test", "dev", "train")

Judgments = Mapping[str, Mapping[str, int]]


# --- measures -------------------------------------------------------------------------------------


def ndcg(ranking: Sequence[str], relevance: Mapping[str, int], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first `k`; 0 where nothing is relevant."""
    ideal = _gain(sorted(relevance.values(), reverse=True)[:k])
    return _gain([relevance.get(key, 0) for key in ranking[:k]]) / ideal if ideal else 0.0


def _gain(scores: Iterable[int]) -> float:
    return sum(score / math.log2(rank + 1) for rank, score in enumerate(scores, start=1))


def recall(ranking: Sequence[str], relevance: Mapping[str, int], k: int = 100) -> float:
    """The share of the relevant rows that are among the first `k`."""
    relevant = {key for key, score in relevance.items() if score > 0}
    return len(relevant & set(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], relevance: Mapping[str, int], k: int = 10) -> float:
    """One over the rank of the first relevant row; 0 where none is among the first `k`."""
    for rank, key in enumerate(ranking[:k], start=1):
        if relevance.get(key, 0) > 0:
            return 1 / rank
    return 0.0


def precise_first(ranking: Sequence[str], relevance: Mapping[str, int]) -> float:
    """1 where the first row is relevant."""
    return float(bool(ranking) and relevance.get(ranking[0], 0) > 0)


# --- data -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dataset:
    """Judged queries; `corpus` is None where the rows are expected to be in the database."""

    name: str
    split: str
    corpus: Path | None
    queries: Mapping[str, str]
    judgments: Judgments


def read_dataset(folder: Path, split: str | None = None) -> Dataset:
    """Read a folder; without `split`, its test, dev or train judgments, whichever come first.

    Only queries with a relevant row are kept.

    Raises:
        InputFileError: a file is missing or does not read; the message names it.
    """
    file = _judgments_file(folder, split)
    judgments: dict[str, dict[str, int]] = {}
    for query, row, score in _judgment_rows(file):
        if score > 0:
            judgments.setdefault(query, {})[row] = score
    texts = {
        query: text for query, text in _queries(folder / "queries.jsonl") if query in judgments
    }
    missing = sorted(judgments.keys() - texts.keys())
    if missing or not texts:
        what = f"no query {missing[0]!r}, which {file} judges" if missing else "no judged query"
        raise errors.InputFileError(f"{folder / 'queries.jsonl'} has {what}.")
    corpus = folder / "corpus.jsonl"
    return Dataset(
        folder.resolve().name, file.stem, corpus if corpus.is_file() else None, texts, judgments
    )


def _judgments_file(folder: Path, split: str | None) -> Path:
    found = sorted([*folder.glob("qrels/*.tsv"), *folder.glob("qrels.tsv")])
    if not found:
        raise errors.InputFileError(
            f"{folder} holds no judgments. Expected qrels/test.tsv with query-id, corpus-id, score."
        )
    wanted = [split] if split else [*_SPLITS, *(file.stem for file in found)]
    for name in wanted:
        for file in found:
            if file.stem == name:
                return file
    raise errors.InputFileError(
        f"{folder} has no split {split!r}; it has: {', '.join(file.stem for file in found)}."
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


def _queries(file: Path) -> Iterator[tuple[str, str]]:
    if not file.is_file():
        raise errors.InputFileError(f"There is no file {file}.")
    for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            yield str(record["_id"]), str(record["text"])
        except (ValueError, KeyError, TypeError):
            raise errors.InputFileError(
                f"{file}, line {number} is no JSON object with _id and text."
            ) from None


async def load_corpus(store: Store, dataset: Dataset, model: Model) -> Collection:
    """Load a dataset's corpus into a table of its own and declare it; the caller fills it.

    Raises:
        InputFileError: there is no corpus, or it does not read.
    """
    if dataset.corpus is None:
        raise errors.InputFileError(
            f"{dataset.name} has no corpus.jsonl. Name the collection that holds its rows: "
            "--collection NAME."
        )
    name = "eval_" + re.sub(r"\W", "_", dataset.name)[:40]
    known = {each.name: each for each in await store.collections()}
    if name in known and known[name].model.identity == model.identity:
        return known[name]
    if name in known:
        await unload(store, known[name])
    await loading.load(store, dataset.corpus, f'public."{name}"', key="_id")
    table = await store.find_table(f'public."{name}"')
    await store.add_collection(
        name, table["oid"], key=None, template=TEMPLATE, column="embedding", model=model
    )
    return await store.collection(name)


async def unload(store: Store, collection: Collection) -> None:
    """Forget a corpus: its collection and its table."""
    await store.drop_collection(collection, drop_column=False)
    table = sql.Identifier(collection.table_schema, collection.table_name)
    await store.connector.execute(sql.SQL("drop table {}").format(table))


# --- runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One mode over all queries. The arrays have one value a query, in the dataset's order.

    Attributes:
        search_ms: milliseconds of the search alone; embedding the query is in `embedding_ms`.
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
    """Run every query, one after another, and measure what comes back.

    Raises:
        UsageError, ModelMismatchError: as `backline.search.search`.
    """
    rankings: dict[str, list[str]] = {}
    times: list[tuple[float, float]] = []
    for key, text in dataset.queries.items():
        query = (
            Query(text, mode, DEPTH) if weight is None else Query(text, mode, DEPTH, weight=weight)
        )
        asked = clean_text(text)
        began = time.perf_counter()
        vector = None if mode == "keyword" else await embed_query(collection, embedder, asked)
        ready = time.perf_counter()
        hits = await rank_rows(store, collection, query, asked, vector)
        times.append((1000 * (time.perf_counter() - ready), 1000 * (ready - began)))
        rankings[key] = [hit.key for hit in hits]
    return await asyncio.to_thread(measured, mode, rankings, dataset.judgments, np.array(times))


def measured(
    mode: Mode,
    rankings: Mapping[str, Sequence[str]],
    judgments: Judgments,
    times: NDArray[np.float64],
) -> Evaluation:
    """The measures of given rankings; `times` is (queries, 2): search and embedding, in ms."""
    pairs = [(ranking, judgments[key]) for key, ranking in rankings.items()]
    return Evaluation(
        mode,
        rankings,
        np.array([ndcg(*pair) for pair in pairs]),
        np.array([recall(*pair) for pair in pairs]),
        np.array([reciprocal_rank(*pair) for pair in pairs]),
        np.array([precise_first(*pair) for pair in pairs]),
        times[:, 0],
        times[:, 1],
    )


# --- comparison -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether one mean truly is above another: a paired bootstrap over the queries.

    `low` and `high` bound the difference with 95 % confidence; `p_value` is two-sided.
    """

    difference: float
    low: float
    high: float
    p_value: float


def compare(
    one: NDArray[np.float64], other: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two systems on the same queries; both arrays have one value a query.

    The p-value is the share of resamples of the centred differences whose mean is at least as far
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
