"""The tree of errors: every one has words, a remedy or a number, and an exit code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from backline import errors


def descendants(kind: type[errors.BacklineError]) -> Iterator[type[errors.BacklineError]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


KINDS = sorted(
    {kind for kind in descendants(errors.BacklineError) if kind.__module__ == errors.__name__},
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_docstring_is_the_default_message(kind: type[errors.BacklineError]) -> None:
    assert str(kind()) == inspect.getdoc(kind)
    assert str(kind("other words")) == "other words"
    assert (inspect.getdoc(kind) or "").split("\n")[0].endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_usage_and_configuration_end_with_2_and_work_that_fell_short_with_1(
    kind: type[errors.BacklineError],
) -> None:
    unusable = (
        errors.ConfigurationError,
        errors.DatabaseUnavailableError,
        errors.PermissionDeniedError,
        errors.ProviderRefusedError,
    )
    assert kind.exit_code == (2 if issubclass(kind, unusable) else 1)


def test_every_name_ends_in_error() -> None:
    assert [kind.__name__ for kind in KINDS if not kind.__name__.endswith("Error")] == []


def test_the_tree_is_one() -> None:
    made = [
        found
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if found.__module__ == errors.__name__
    ]
    assert {*KINDS, errors.BacklineError} == set(made)
