"""The tree of errors: each one has a default message and an exit code."""

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
    assert str(kind("another message")) == "another message"
    assert (inspect.getdoc(kind) or "").split("\n")[0].endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_exit_code_is_2_for_usage_and_configuration_and_1_otherwise(
    kind: type[errors.BacklineError],
) -> None:
    unusable = (
        errors.ConfigurationError,
        errors.DatabaseUnavailableError,
        errors.PermissionDeniedError,
        errors.ProviderRefusedError,
        errors.ReadOnlyError,
    )
    assert kind.exit_code == (2 if issubclass(kind, unusable) else 1)


def test_every_name_ends_in_error() -> None:
    assert [kind.__name__ for kind in KINDS if not kind.__name__.endswith("Error")] == []


def test_every_error_derives_from_backline_error() -> None:
    defined = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    ]
    assert {*KINDS, errors.BacklineError} == set(defined)
