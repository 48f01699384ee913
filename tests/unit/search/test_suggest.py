"""The order of suggestions: matches with the context, and no near-duplicates."""

from __future__ import annotations

from typing import Any

import pytest

from backline.search.suggest import Context, Suggestion, context_matches, diversify

ROW: dict[str, Any] = {
    "title": "Pump the pads", "topic": "side_chain", "category": "mixing",
    "suggestion": "In techno, duck the pads.", "parameters": {"tempo_bpm": [120, 135]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("context", "signs"),
    [
        (Context(), []),
        (Context(focus="Mixing"), [1]),
        (Context(focus="side chain"), [1]),
        (Context(focus="mastering"), []),
        (Context(genre="techno", track_type="pads"), [1, 1]),
        (Context(genre="tech.*"), []),
        (Context(bpm=128), [1]),
        (Context(bpm=90), [-1]),
    ],
)
def test_matches_raise_and_mismatches_lower_the_score(context: Context, signs: list[int]) -> None:
    assert [sign for sign, _ in context_matches(ROW, context)] == signs


def test_single_tempo_matches_within_ten_percent() -> None:
    row = {"parameters": {"tempo_bpm": 100}}
    assert [s for s, _ in context_matches(row, Context(bpm=108))] == [1]
    assert [s for s, _ in context_matches(row, Context(bpm=140))] == [-1]
    assert list(context_matches({"parameters": {"tempo_bpm": "fast"}}, Context(bpm=100))) == []


def entry(key: str, score: float) -> Suggestion:
    return Suggestion(key, key, "", {}, 0.8, score, score, "")


def test_near_duplicates_appear_once_and_novel_entries_come_first() -> None:
    ranking = [entry("a", 0.9), entry("b", 0.89), entry("c", 0.85), entry("d", 0.5)]
    similarities = {("a", "b"): 0.97, ("a", "c"): 0.8, ("b", "c"): 0.8, ("a", "d"): 0.1}
    assert [each.key for each in diversify(ranking, similarities, 10)] == ["a", "c", "d"]
    closer = {("a", "b"): 0.9, ("a", "c"): 0.1, ("b", "c"): 0.1}
    assert [each.key for each in diversify(ranking, closer, 2)] == ["a", "c"]


def test_dissimilar_entries_are_ordered_by_score() -> None:
    ranking = [entry("a", 0.9), entry("b", 0.8), entry("c", 0.7)]
    assert [each.key for each in diversify(ranking, {}, 2)] == ["a", "b"]
