"""Measure how far two rankings of the same rows agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

DEPTH: Final = 10

PERSISTENCE: Final = 0.9
"""Chance that a reader goes on to the next rank. At 0.9, the first ten ranks have 86 % of the
weight of rank-biased overlap (Webber, Moffat and Zobel 2010)."""


def shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many keys two rankings have in common."""
    return len(set(one) & set(other))


def overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the share of the longer ranking that is in both; 1 if both are empty."""
    longer = max(len(one), len(other))
    return shared(one, other) / longer if longer else 1.0


def rank_biased_overlap(
    one: Sequence[str], other: Sequence[str], persistence: float = PERSISTENCE
) -> float:
    """Return the extrapolated rank-biased overlap of two rankings, from 0 to 1.

    It compares top-k lists with different rows, and the first ranks weigh most. Equal rankings give
    1, rankings without a common row 0. Kendall's tau and Spearman's rho need the same rows in both.

    It is RBO_EXT, equation 32 of Webber, Moffat and Zobel, "A similarity measure for indefinite
    rankings", ACM Transactions on Information Systems 28(4), 2010.

    Args:
        one: distinct keys, best first.
        other: likewise; the lengths may differ.
        persistence: the parameter p, between 0 and 1.
    """
    short, long = sorted((one, other), key=len)
    if not short:
        return float(not long)
    weighted = agreement = 0.0
    at_end = 0  # the keys in common at the end of the shorter ranking
    for depth in range(1, len(long) + 1):
        common = shared(short[:depth], long[:depth])
        if depth <= len(short):
            at_end = common
        # Beyond its end, the shorter ranking is taken to agree as it did at its end.
        beyond = max(0, depth - len(short))
        agreement = (common + at_end * beyond / len(short)) / depth
        weighted += agreement * persistence**depth
    return (1 - persistence) / persistence * weighted + agreement * persistence ** len(long)
