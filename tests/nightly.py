"""Tests that `make test` leaves to `make nightly`: slow ones of a kind that others hold too."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def first_at_once(values: Iterable[object]) -> list[object]:
    """Return the parameters of a test, all but the first marked as nightly."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.nightly) for value in others)]
