"""Make trec.json: rankings, judgments, and the measures that trec_eval computes from them.

Run it where pytrec-eval-terrier is installed: python tests/golden/make_trec.py
"""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any

QUERIES, DOCUMENTS = 60, 400
MEASURES = {"ndcg_cut_10": "ndcg@10", "recall_100": "recall@100", "recip_rank": "mrr"}

Judgments = dict[str, dict[str, int]]
Rankings = dict[str, list[str]]
Scores = dict[str, dict[str, float]]


def main() -> None:
    judgments, rankings = random_rankings(random.Random(5))
    golden = {
        "judgments": judgments,
        "rankings": rankings,
        "trec_eval": measures(judgments, rankings),
    }
    Path(__file__).with_name("trec.json").write_text(json.dumps(golden) + "\n")


def random_rankings(rng: random.Random) -> tuple[Judgments, Rankings]:
    """Return random judgments per query, and rankings that favour the relevant documents."""
    judgments, rankings = {}, {}
    for n in range(QUERIES):
        rows = [f"d{i}" for i in range(DOCUMENTS)]
        rng.shuffle(rows)
        judged = rng.sample(rows, rng.randint(1, 40))
        judgments[f"q{n}"] = {row: rng.choice([0, 1, 1, 2, 3]) for row in judged}
        judgments[f"q{n}"][judged[0]] = 2
        rows.sort(key=lambda row: judgments[f"q{n}"].get(row, 0) * rng.random() / 40 + rng.random())
        rankings[f"q{n}"] = rows[::-1][: rng.choice([3, 10, 100])]
    return judgments, rankings


def measures(judgments: Judgments, rankings: Rankings) -> Scores:
    """Return trec_eval's measures of each query; the reciprocal rank is cut at 10."""
    scores = {
        query: {row: float(1000 - rank) for rank, row in enumerate(rows)}
        for query, rows in rankings.items()
    }
    top_ten = {query: dict(list(rows.items())[:10]) for query, rows in scores.items()}
    truth = {
        query: {ours: round(values[theirs], 6) for theirs, ours in MEASURES.items()}
        for query, values in evaluate(judgments, scores, set(MEASURES)).items()
    }
    for query, values in evaluate(judgments, top_ten, {"recip_rank"}).items():
        truth[query]["mrr@10"] = round(values["recip_rank"], 6)
        del truth[query]["mrr"]
    return truth


def evaluate(judgments: Judgments, scores: Scores, names: set[str]) -> Scores:
    pytrec_eval: Any = importlib.import_module("pytrec_eval")
    result: Scores = pytrec_eval.RelevanceEvaluator(judgments, names).evaluate(scores)
    return result


if __name__ == "__main__":
    main()
