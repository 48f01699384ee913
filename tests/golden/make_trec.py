"""Make trec.json: rankings, judgments, and their measures by trec_eval.

Run manually with pytrec-eval-terrier installed: python tests/golden/make_trec.py
"""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path

MEASURES = {"ndcg_cut_10": "ndcg@10", "recall_100": "recall@100", "recip_rank": "mrr"}


def main() -> None:
    pytrec_eval = importlib.import_module("pytrec_eval")
    rng = random.Random(5)
    judgments, rankings = {}, {}
    for n in range(60):
        rows = [f"d{i}" for i in range(400)]
        rng.shuffle(rows)
        judged = rng.sample(rows, rng.randint(1, 40))
        judgments[f"q{n}"] = {row: rng.choice([0, 1, 1, 2, 3]) for row in judged}
        judgments[f"q{n}"][judged[0]] = 2
        rows.sort(key=lambda row: judgments[f"q{n}"].get(row, 0) * rng.random() / 40 + rng.random())
        rankings[f"q{n}"] = rows[::-1][: rng.choice([3, 10, 100])]
    scored = {
        query: {row: float(1000 - rank) for rank, row in enumerate(rows)}
        for query, rows in rankings.items()
    }
    evaluator = pytrec_eval.RelevanceEvaluator(judgments, set(MEASURES))
    truth = {
        query: {ours: round(values[theirs], 6) for theirs, ours in MEASURES.items()}
        for query, values in evaluator.evaluate(scored).items()
    }
    ten = {query: dict(list(rows.items())[:10]) for query, rows in scored.items()}
    for query, values in (
        pytrec_eval.RelevanceEvaluator(judgments, {"recip_rank"}).evaluate(ten).items()
    ):
        truth[query]["mrr@10"] = round(values["recip_rank"], 6)
        del truth[query]["mrr"]
    golden = {"judgments": judgments, "rankings": rankings, "trec_eval": truth}
    Path(__file__).with_name("trec.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
