"""The judged queries over the shipped music knowledge form a valid test set in BEIR layout.

A score of 2 means that the entry answers the query, 1 that it helps, 0 that it was judged not
relevant. An entry without a judgment counts as not relevant too. A query of the kind `off_topic`
has no relevant entry, and a search should return nothing for it.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from importlib import resources
from pathlib import Path
from typing import Any

from backline.search import evaluate

ON_TOPIC_KINDS = {"slang", "symptom", "typo", "wrong_term", "plain", "long"}
OFF_TOPIC = "off_topic"

DATA = resources.files("backline") / "data"


def _json_lines(*path: str) -> list[dict[str, Any]]:
    text = DATA.joinpath(*path).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _judgment_rows() -> list[list[str]]:
    text = DATA.joinpath("music_questions", "qrels.tsv").read_text("utf-8")
    return list(csv.reader(text.splitlines(), delimiter="\t"))


QUERIES = _json_lines("music_questions", "queries.jsonl")
HEADER, *ROWS = _judgment_rows()
JUDGMENTS = [(query, entry, int(score)) for query, entry, score in ROWS]
RELEVANT = [(query, entry, score) for query, entry, score in JUDGMENTS if score > 0]
CATEGORY = {entry["id"]: entry["category"] for entry in _json_lines("music_knowledge.jsonl")}
TITLES = {entry["title"].casefold() for entry in _json_lines("music_knowledge.jsonl")}


def _kinds() -> Counter[str]:
    return Counter(query["metadata"]["kind"] for query in QUERIES)


def _query_ids(*, off_topic: bool) -> set[str]:
    return {
        query["_id"] for query in QUERIES if (query["metadata"]["kind"] == OFF_TOPIC) is off_topic
    }


def _scores() -> dict[str, list[int]]:
    by_query: dict[str, list[int]] = defaultdict(list)
    for query, _, score in RELEVANT:
        by_query[query].append(score)
    return by_query


def test_queries_have_the_beir_fields() -> None:
    for number, query in enumerate(QUERIES, start=1):
        assert list(query) == ["_id", "text", "metadata"]
        assert query["_id"] == f"q{number:03}"
        assert list(query["metadata"]) == ["kind"]
        assert query["text"] == query["text"].strip() != ""


def test_qrels_have_the_beir_columns() -> None:
    assert HEADER == ["query-id", "corpus-id", "score"]
    assert {score for _, _, score in JUDGMENTS} == {0, 1, 2}


def test_every_kind_has_enough_queries() -> None:
    kinds = _kinds()
    assert set(kinds) == ON_TOPIC_KINDS | {OFF_TOPIC}
    assert kinds[OFF_TOPIC] >= 25
    assert kinds.total() - kinds[OFF_TOPIC] >= 120
    assert min(kinds.values()) >= 10


def test_queries_are_distinct_and_copy_no_title() -> None:
    texts = [" ".join(query["text"].casefold().split()) for query in QUERIES]
    assert [text for text, n in Counter(texts).items() if n > 1] == []
    assert TITLES.isdisjoint(texts)


def test_only_queries_of_kind_long_have_25_words() -> None:
    for query in QUERIES:
        is_long = len(query["text"].split()) >= 25
        assert is_long == (query["metadata"]["kind"] == "long"), query["text"]


def test_judgments_refer_to_existing_queries_and_entries() -> None:
    existing = {query["_id"] for query in QUERIES}
    assert {query for query, _, _ in JUDGMENTS} <= existing
    assert {entry for _, entry, _ in JUDGMENTS} <= set(CATEGORY)


def test_no_pair_is_judged_twice() -> None:
    pairs = Counter((query, entry) for query, entry, _ in JUDGMENTS)
    assert [pair for pair, n in pairs.items() if n > 1] == []


def test_every_query_on_topic_has_ten_judgments() -> None:
    """The judged pool is the union of several top tens."""
    counts = Counter(query for query, _, _ in JUDGMENTS)
    assert set(counts) == _query_ids(off_topic=False)
    assert min(counts.values()) >= 10


def test_reader_drops_pairs_judged_not_relevant() -> None:
    dataset = evaluate.read_dataset(Path(str(DATA / "music_questions")))
    kept = {
        (query, entry, score)
        for query, scores in dataset.judgments.items()
        for entry, score in scores.items()
    }
    assert kept == set(RELEVANT)


def test_every_query_on_topic_has_a_direct_answer() -> None:
    scores = _scores()
    unanswered = [query for query in _query_ids(off_topic=False) if 2 not in scores[query]]
    assert unanswered == []


def test_off_topic_queries_have_no_relevant_entry() -> None:
    assert _query_ids(off_topic=True).isdisjoint(_scores())


def test_few_entries_are_relevant_to_a_query() -> None:
    """A query that half of the entries answer would measure nothing."""
    counts = [len(scores) for scores in _scores().values()]
    assert max(counts) <= 12
    assert sum(counts) / len(counts) <= 4


def test_every_category_answers_a_query() -> None:
    answered = Counter(CATEGORY[entry] for _, entry, score in RELEVANT if score == 2)
    assert set(answered) == set(CATEGORY.values())
    assert min(answered.values()) >= 5


def test_every_entry_is_relevant_to_a_query() -> None:
    assert set(CATEGORY) - {entry for _, entry, _ in RELEVANT} == set()
