"""The map from errors to responses is complete and reveals no secrets."""

from __future__ import annotations

import pytest
from fastapi.exceptions import RequestValidationError

from backline import errors
from backline.server.problems import TITLES, problem_of


def tree(kind: type[errors.BacklineError]) -> list[type[errors.BacklineError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in tree(child))]


@pytest.mark.parametrize("kind", tree(errors.BacklineError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_keeps_its_message(kind: type[errors.BacklineError]) -> None:
    problem = problem_of(kind("what is wrong, and the remedy"))
    assert problem.status in TITLES
    assert problem.detail == "what is wrong, and the remedy"
    assert problem.kind == kind.__name__


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (errors.DatabaseUnavailableError(), 503, 1),
        (errors.DatabaseAuthenticationError(), 503, 1),
        (errors.ContentionError(), 503, 1),
        (errors.StatementTimeoutError(), 504, 1),
        (errors.RateLimitedError("slow", retry_after=12.3), 429, 13),
        (errors.RateLimitedError("slow"), 429, 1),
        (errors.OverloadedError(), 429, 1),
        (errors.ProviderUnavailableError("gone", status=500), 503, 1),
        (errors.ProviderRefusedError(), 502, None),
        (errors.NotMigratedError(), 503, None),
        (errors.ModelMismatchError(), 409, None),
        (errors.DimensionMismatchError(), 409, None),
        (errors.CollectionNotFoundError(), 404, None),
        (errors.UsageError(), 422, None),
    ],
)
def test_status_and_retry_after(
    error: errors.BacklineError, status: int, retry_after: int | None
) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.retry_after) == (status, retry_after)
    headers = problem.response("/x", "id").headers
    assert headers.get("retry-after") == (None if retry_after is None else str(retry_after))


def test_internal_errors_reveal_nothing() -> None:
    problem = problem_of(KeyError("postgresql://user:secret@host"))
    assert problem.status == 500
    assert "secret" not in str(problem.body("/x", "id"))


def test_invalid_values_are_not_repeated() -> None:
    error = RequestValidationError(
        [{"loc": ("body", "api_key"), "msg": "too long", "type": "x", "input": "the secret"}]
    )
    body = problem_of(error).body("/x", "id")
    assert body["errors"] == [{"field": "body.api_key", "message": "too long"}]
    assert "the secret" not in str(body)
