"""Overlap and rank-biased overlap, by hand on short lists and as properties of any lists."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.search.agreement import overlap, rank_biased_overlap, shared

rankings = st.lists(st.sampled_from("abcdefghijkl"), unique=True, max_size=12)
persistences = st.floats(0.05, 0.95)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # At p = 0.5 and depth d, agreement weighs 0.5 ** d, and the last one 0.5 ** d again.
        ("ab", "ba", 0.25 + 0.25),  # agreement 0, 1
        ("ab", "ac", 0.5 + 0.5 / 4 + 0.5 / 4),  # agreement 1, 1/2
        ("abc", "bad", 0 + 0.25 + (2 / 3) / 8 + (2 / 3) / 8),  # agreement 0, 1, 2/3
        ("a", "ba", 0 + 0.5 / 4 + 0.5 / 4),  # agreement 0, 1/2: the short list ends without one
        ("a", "ab", 1.0),  # the short list is taken to go on as it began
        ("abc", "def", 0.0),
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_rank_biased_overlap_by_hand(one: str, other: str, expected: float) -> None:
    assert rank_biased_overlap(one, other, 0.5) == pytest.approx(expected)


def test_overlap_by_hand() -> None:
    assert shared("abcd", "cbxy") == 2
    assert overlap("abcd", "cbxy") == 0.5
    assert overlap("ab", "abcd") == 0.5
    assert overlap("", "") == 1.0
    assert overlap("", "a") == 0.0


def test_a_change_at_the_top_counts_more_than_one_at_the_end() -> None:
    top = rank_biased_overlap("abcdefghij", "bacdefghij")
    end = rank_biased_overlap("abcdefghij", "abcdefghji")
    assert top < end < 1


@given(rankings, rankings, persistences)
def test_agreement_is_symmetric_and_between_0_and_1(
    one: list[str], other: list[str], persistence: float
) -> None:
    value = rank_biased_overlap(one, other, persistence)
    assert value == pytest.approx(rank_biased_overlap(other, one, persistence))
    assert -1e-12 <= value <= 1 + 1e-12
    assert overlap(one, other) == overlap(other, one)
    assert 0 <= overlap(one, other) <= 1
    assert (value == 0) == (shared(one, other) == 0 and one + other != [])


@given(rankings, persistences)
def test_a_ranking_agrees_fully_with_itself(one: list[str], persistence: float) -> None:
    assert rank_biased_overlap(one, one, persistence) == pytest.approx(1)
    assert overlap(one, one) == 1


@given(st.permutations("abcdef"), persistences)
def test_only_equal_rankings_of_the_same_rows_agree_fully(
    other: Sequence[str], persistence: float
) -> None:
    value = rank_biased_overlap("abcdef", other, persistence)
    assert (value > 1 - 1e-9) == ("".join(other) == "abcdef")


@given(st.integers(1, 8), rankings, rankings, persistences)
def test_it_is_the_series_of_the_agreements(
    length: int, one: list[str], other: list[str], persistence: float
) -> None:
    """The definition: (1 - p) times the sum of p ** (d - 1) times the agreement at depth d."""
    one, other = one[:length], other[:length]
    if len(one) != len(other) or not one:
        return
    depths = [min(depth, len(one)) for depth in range(1, 1000)]
    series = sum(
        persistence**at * len({*one[:depth]} & {*other[:depth]}) / depth
        for at, depth in enumerate(depths)
    )
    assert rank_biased_overlap(one, other, persistence) == pytest.approx((1 - persistence) * series)
