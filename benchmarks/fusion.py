"""Compare rules that fuse meaning and words, leaving out one judged set at a time.

    .venv/bin/python benchmarks/fusion.py DIR... --database-url URL

Each DIR is a set in BEIR's layout that `backline eval DIR --keep` loaded, or `advice` for the
shipped questions. The legs' scores of every candidate are read once. Each rule is then computed
from them. For a set that is left out, the rule's constant is the best one of the other sets.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from backline.embedders.providers import open_embedder
from backline.postgres.store import Store, open_store
from backline.search import evaluate
from backline.search.query import Query, clean_text, embed_query, rank_rows

QUESTIONS = Path(str(resources.files("backline") / "data" / "music_questions"))
DEPTH = 50
WEIGHTS = (0.3, 0.35, 0.4, 0.45, 0.5)
Scores: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rows that either leg finds for a query, with both scores, in the order of their keys."""

    keys: list[str]
    cosine: Scores
    bm25: Scores
    relevance: Mapping[str, int]


Rule = Callable[[Candidates, float], Scores]


def min_max(scores: Scores) -> Scores:
    spread = float(np.ptp(scores))
    return np.asarray((scores - scores.min()) / spread if spread else np.zeros_like(scores))


def reciprocal_rank(each: Candidates, _: float) -> Scores:
    ranks = [np.argsort(np.argsort(-leg, kind="stable")) for leg in (each.cosine, each.bm25)]
    return 1 / (61 + ranks[0]) + np.where(each.bm25 > 0, 1 / (61 + ranks[1]), 0)


def convex(each: Candidates, weight: float) -> Scores:
    return (1 - weight) * min_max(each.cosine) + weight * min_max(each.bm25)


def of_best(each: Candidates, weight: float) -> Scores:
    return np.asarray((1 - weight) * each.cosine + weight * each.bm25 / max(each.bm25.max(), 2))


def shipped(each: Candidates, weight: float) -> Scores:
    """Compute the rule of `backline.score_statement`."""
    best = float(each.bm25.max())
    if not best:
        return each.cosine
    nearest = each.bm25[np.argsort(-each.cosine, kind="stable")[:3]]
    agreement = max(float(nearest.mean()) / best, 0.2)
    odds = weight / (1 - weight) * max(1 - float(each.cosine.max()), 0.1) ** 0.5 / agreement
    return np.asarray((each.cosine + odds * each.bm25 / max(best, 2)) / (1 + odds))


RULES: dict[str, Rule] = {
    "semantic": lambda each, _: each.cosine,
    "keyword": lambda each, _: np.where(each.bm25 > 0, each.bm25, -1e9),
    "reciprocal rank": reciprocal_rank,
    "convex": convex,
    "share of the best BM25": of_best,
    "shipped": shipped,
}


async def candidates(store: Store, name: str) -> list[Candidates]:
    """Read the candidates of every query of a set."""
    dataset = evaluate.read_dataset(QUESTIONS if name == "advice" else Path(name))
    collection = await store.collection(
        "music_knowledge" if name == "advice" else f"eval_{dataset.name}"
    )
    embedder = await open_embedder("local")
    result = []
    for key, text in dataset.queries.items():
        query = Query(clean_text(text), limit=2 * DEPTH, weight=0.5)
        corrected = await store.query_text(collection, query.text)
        vector = await embed_query(collection, embedder, corrected)
        hits = await rank_rows(store, collection, query, query.text, vector)
        hits.sort(key=lambda hit: hit.key)
        cosine, bm25 = (
            np.array([hit.parts.get(leg, 0.0) for hit in hits]) for leg in ("dense", "keyword")
        )
        result.append(Candidates([h.key for h in hits], cosine, bm25, dataset.judgments[key]))
    await embedder.aclose()
    return result


def mean_ndcg(rule: Rule, weight: float, queries: list[Candidates]) -> float:
    values = []
    for each in queries:
        scores = rule(each, weight)
        order = np.argsort(-np.round(scores, 9), kind="stable")[:10]
        ranking = [each.keys[at] for at in order if scores[at] > -1e8]
        values.append(evaluate.ndcg(ranking, each.relevance))
    return float(np.mean(values))


def left_out(rule: Rule, sets: Mapping[str, list[Candidates]]) -> list[float]:
    """Return nDCG@10 of each set, with the weight that is best for the mean of the others."""
    table = np.array([[mean_ndcg(rule, w, each) for w in WEIGHTS] for each in sets.values()])
    rest = table.sum(axis=0) - table
    return [float(row[at]) for row, at in zip(table, rest.argmax(axis=1), strict=True)]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--database-url", required=True)
    options = parser.parse_args()
    async with open_store(options.database_url) as store:
        sets = {Path(name).name: await candidates(store, name) for name in options.sets}
    print("| rule | " + " | ".join(sets) + " | mean |")
    print("|---" * (len(sets) + 2) + "|")
    for name, rule in RULES.items():
        values = left_out(rule, sets)
        cells = [f"{value:.3f}" for value in (*values, float(np.mean(values)))]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    asyncio.run(main())
