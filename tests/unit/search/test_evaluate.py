"""The measures agree with trec_eval, and the comparison separates differences from noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backline import errors
from backline.search import evaluate

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "trec.json").read_text())


@pytest.mark.parametrize(
    ("measure", "ours"),
    [
        ("ndcg@10", evaluate.ndcg),
        ("recall@100", evaluate.recall),
        ("mrr@10", evaluate.reciprocal_rank),
    ],
)
def test_measures_equal_those_of_trec_eval(measure: str, ours: object) -> None:
    assert callable(ours)
    values = []
    for query, ranking in GOLDEN["rankings"].items():
        truth = GOLDEN["trec_eval"][query][measure]
        assert ours(ranking, GOLDEN["judgments"][query]) == pytest.approx(truth, abs=5e-5)
        values.append(truth)
    assert len(set(values)) > 5


def test_measures_are_zero_without_relevant_rows() -> None:
    assert evaluate.ndcg(["a"], {"a": 0}) == 0
    assert evaluate.ndcg([], {"a": 1}) == 0
    assert evaluate.recall([], {"a": 1}) == 0
    assert evaluate.reciprocal_rank(["b"] * 10 + ["a"], {"a": 1}) == 0
    assert evaluate.precision_at_1(["b", "a"], {"a": 1}) == 0
    assert evaluate.precision_at_1(["a", "b"], {"a": 1}) == 1


def test_steady_difference_is_significant_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    base = rng.random(200)
    steady = evaluate.compare(base + 0.05 + 0.02 * rng.standard_normal(200), base)
    assert steady.p_value < 0.001
    assert steady.low > 0.04
    assert steady.high < 0.06
    chance = evaluate.compare(base + 0.3 * rng.standard_normal(200), base)
    assert chance.low < 0 < chance.high
    assert chance.p_value > 0.05


def test_p_value_is_two_sided_and_calibrated() -> None:
    """Of systems that differ by chance alone, 5 % are reported as different."""
    rng = np.random.default_rng(2)
    significant = sum(
        evaluate.compare(rng.random(100), rng.random(100), 500, seed).p_value < 0.05
        for seed in range(300)
    )
    assert 4 <= significant <= 32


def test_equal_systems_have_p_value_one() -> None:
    same = np.array([0.1, 0.9])
    assert evaluate.compare(same, same).p_value == 1.0


def folder(path: Path, qrels: str, queries: str = '{"_id": "q1", "text": "one"}\n') -> Path:
    (path / "qrels").mkdir()
    (path / "qrels" / "dev.tsv").write_text(qrels)
    (path / "queries.jsonl").write_text(queries)
    return path


def test_beir_folder_is_read_without_irrelevant_judgments(tmp_path: Path) -> None:
    dataset = evaluate.read_dataset(
        folder(tmp_path, "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\nq1\tc\t1\n")
    )
    assert dataset.queries == {"q1": "one"}
    assert dataset.judgments == {"q1": {"a": 2, "c": 1}}
    assert (dataset.split, dataset.corpus) == ("dev", None)


@pytest.mark.parametrize(
    ("qrels", "queries", "message"),
    [
        ("q1\ta\tx\n", '{"_id": "q1", "text": "one"}\n', r"dev\.tsv, line 1"),
        ("q2\ta\t1\n", '{"_id": "q1", "text": "one"}\n', "no query 'q2'"),
        ("q1\ta\t1\n", '{"_id": "q1"}\n', r"queries\.jsonl, line 1"),
        ("q1\ta\t0\n", '{"_id": "q1", "text": "one"}\n', "no judged query"),
    ],
)
def test_error_names_the_malformed_file(
    tmp_path: Path, qrels: str, queries: str, message: str
) -> None:
    with pytest.raises(errors.InputFileError, match=message):
        evaluate.read_dataset(folder(tmp_path, qrels, queries))


def test_error_names_the_existing_splits(tmp_path: Path) -> None:
    with pytest.raises(errors.InputFileError, match="it has: dev"):
        evaluate.read_dataset(folder(tmp_path, "q1\ta\t1\n"), "test")
    with pytest.raises(errors.InputFileError, match="no judgments"):
        evaluate.read_dataset(tmp_path / "nowhere")
