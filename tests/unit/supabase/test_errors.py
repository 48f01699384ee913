"""Refused calls of a Supabase project, by the codes of both PostgREST versions and by status."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from backline import errors
from backline.supabase.errors import translate
from backline.supabase.keys import ApiKey

SECRET = SecretStr("sb_secret_abc")


def error_for(status: int, body: Any, access: str = "write", **headers: str) -> Exception:
    response = httpx.Response(
        status,
        json=body if isinstance(body, dict) else None,
        text=body if isinstance(body, str) else None,
        headers=headers,
    )
    return translate(response, "p.supabase.co", ApiKey(SECRET, access))  # type: ignore[arg-type]


def postgrest(code: str, message: str = "refused") -> dict[str, Any]:
    return {"code": code, "message": message, "details": None, "hint": None}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        # PostgREST 12 and 16 have different codes for the same error.
        (404, "42P01", errors.TableNotFoundError),
        (404, "PGRST205", errors.TableNotFoundError),
        (401, "PGRST301", errors.ProjectKeyError),
        (401, "PGRST302", errors.ProjectKeyError),
        (401, "PGRST303", errors.ProjectKeyError),
        (404, "PGRST202", errors.NotMigratedError),
        (404, "3F000", errors.NotMigratedError),
        (503, "PGRST000", errors.DatabaseUnavailableError),
        (503, "PGRST002", errors.DatabaseUnavailableError),
        (504, "PGRST003", errors.DatabaseUnavailableError),
        (503, "53300", errors.DatabaseUnavailableError),
        (500, "57014", errors.StatementTimeoutError),
        (500, "57P01", errors.DatabaseUnavailableError),
        (403, "42501", errors.PermissionDeniedError),
        (409, "23505", errors.RowRefusedError),
        (400, "23514", errors.RowRefusedError),
        (400, "P0001", errors.RowRefusedError),
        (400, "BL005", errors.ModelMismatchError),
        (500, "40P01", errors.ContentionError),
        (500, "55P03", errors.ContentionError),
    ],
)
def test_code_determines_the_error(status: int, code: str, kind: type[Exception]) -> None:
    assert isinstance(error_for(status, postgrest(code)), kind)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, {"message": "Invalid API key"}, errors.ProjectKeyError, "Invalid API key"),
        (403, "<html>no</html>", errors.ProjectKeyError, "refuses the key"),
        (540, {"message": "Project paused"}, errors.ProjectPausedError, "Restore it"),
        (404, {"message": "no Route matched"}, errors.ConfigurationError, "without a path"),
        (301, "", errors.ConfigurationError, "without a path"),
        (429, {"message": "slow"}, errors.DatabaseUnavailableError, "429: slow"),
        (502, "<html>bad</html>", errors.DatabaseUnavailableError, "responds 502"),
        (503, {"message": "name resolution failed"}, errors.DatabaseUnavailableError, "503"),
        (504, "", errors.DatabaseUnavailableError, "504: Gateway Timeout"),
        (520, "", errors.DatabaseUnavailableError, "520"),
        (413, "", errors.DatabaseError, "413"),
    ],
)
def test_status_determines_the_error(
    status: int, body: Any, kind: type[Exception], message: str
) -> None:
    error = error_for(status, body)
    assert isinstance(error, kind)
    assert message in str(error)


def test_missing_privilege_names_the_role() -> None:
    assert "service_role; grant" in str(error_for(403, postgrest("42501")))
    assert "anon; grant" in str(error_for(401, postgrest("42501"), access="read"))


def test_retry_after_is_read_from_the_response() -> None:
    error = error_for(429, "", **{"Retry-After": "7"})
    assert getattr(error, "retry_after", None) == 7.0
    error = error_for(503, "", **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    assert getattr(error, "retry_after", None) == 0.0
