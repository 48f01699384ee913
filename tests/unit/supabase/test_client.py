"""Keys of a Supabase project, and what its gateway and either PostgREST say when they refuse."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from backline import errors
from backline.supabase.client import translate
from backline.supabase.keys import ApiKey, choose_key, read_key

SECRET = SecretStr("sb_secret_abc")
PUBLISHABLE = SecretStr("sb_publishable_abc")


def jwt(**claims: Any) -> SecretStr:
    parts = [b'{"alg":"HS256"}', json.dumps(claims).encode(), b"signature"]
    return SecretStr(".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts))


ANON = jwt(role="anon", exp=4_000_000_000)
SERVICE = jwt(role="service_role", exp=4_000_000_000)


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "access", "is_jwt"),
    [
        (SECRET, "write", False),
        (PUBLISHABLE, "read", False),
        (SERVICE, "write", True),
        (ANON, "read", True),
        (SecretStr(" sb_secret_abc\n"), "write", False),
    ],
)
def test_the_kind_of_a_key(secret: SecretStr, access: str, *, is_jwt: bool) -> None:
    key = read_key(secret, "A_NAME")
    assert (key.access, key.is_jwt) == (access, is_jwt)
    assert key.text == secret.get_secret_value().strip()
    assert key.text not in repr(key)


@pytest.mark.parametrize(
    "secret",
    [
        SecretStr("hunter2"),
        SecretStr("a.b.c"),
        jwt(role="authenticated"),
        SecretStr("eyJ.e30.x"),
        jwt(role="service_role", exp=time.time() - 10),
    ],
)
def test_a_key_that_is_none(secret: SecretStr) -> None:
    with pytest.raises(errors.ProjectKeyError, match=r"^A_NAME holds") as caught:
        read_key(secret, "A_NAME")
    assert secret.get_secret_value() not in str(caught.value)


def test_the_secret_key_does_everything_and_the_publishable_one_searches() -> None:
    for need in ("read", "write"):
        assert choose_key(PUBLISHABLE, SECRET, need).text == "sb_secret_abc"
    assert choose_key(None, SERVICE, "read").access == "write"
    assert choose_key(PUBLISHABLE, None, "read").text == "sb_publishable_abc"
    assert choose_key(ANON, None, "read").is_jwt


@pytest.mark.parametrize(
    ("publishable", "secret", "said"),
    [
        (PUBLISHABLE, None, "row level security would discard every write"),
        (ANON, None, "row level security would discard every write"),
        (None, None, "No key of the Supabase project is set"),
        (None, PUBLISHABLE, "holds a publishable .anon. key, which may not write"),
        (PUBLISHABLE, ANON, "holds a publishable .anon. key, which may not write"),
        (SECRET, None, "holds a secret key. Under that name.*revoke it"),
        (SERVICE, SECRET, "holds a secret key. Under that name.*revoke it"),
    ],
)
def test_a_wrong_key_is_explained_before_anything_starts(
    publishable: SecretStr | None, secret: SecretStr | None, said: str
) -> None:
    with pytest.raises(errors.ProjectKeyError, match=said) as caught:
        choose_key(publishable, secret, "write")
    assert caught.value.exit_code == 2
    for key in (publishable, secret):
        assert key is None or key.get_secret_value() not in str(caught.value)


# --- answers --------------------------------------------------------------------------------------


def error_for(status: int, body: Any, access: str = "write", **headers: str) -> Exception:
    response = httpx.Response(
        status,
        json=body if isinstance(body, dict) else None,
        text=body if isinstance(body, str) else None,
        headers=headers,
    )
    return translate(response, "p.supabase.co", ApiKey(SECRET, access))  # type: ignore[arg-type]


def postgrest(code: str, message: str = "said") -> dict[str, Any]:
    return {"code": code, "message": message, "details": None, "hint": None}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        # PostgREST 12 and 16 have different words for the same.
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
def test_what_a_code_means(status: int, code: str, kind: type[Exception]) -> None:
    assert isinstance(error_for(status, postgrest(code)), kind)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (401, {"message": "Invalid API key"}, errors.ProjectKeyError, "Invalid API key"),
        (403, "<html>no</html>", errors.ProjectKeyError, "refuses the key"),
        (540, {"message": "Project paused"}, errors.ProjectPausedError, "Restore it"),
        (404, {"message": "no Route matched"}, errors.ConfigurationError, "without a path"),
        (301, "", errors.ConfigurationError, "without a path"),
        (429, {"message": "slow"}, errors.DatabaseUnavailableError, "429: slow"),
        (502, "<html>bad</html>", errors.DatabaseUnavailableError, "answers 502"),
        (503, {"message": "name resolution failed"}, errors.DatabaseUnavailableError, "503"),
        (504, "", errors.DatabaseUnavailableError, "504: Gateway Timeout"),
        (520, "", errors.DatabaseUnavailableError, "520"),
        (413, "", errors.DatabaseError, "413"),
    ],
)
def test_what_a_status_means(status: int, body: Any, kind: type[Exception], said: str) -> None:
    error = error_for(status, body)
    assert isinstance(error, kind)
    assert said in str(error)


def test_a_missing_right_names_the_role() -> None:
    assert "service_role; grant" in str(error_for(403, postgrest("42501")))
    assert "anon; grant" in str(error_for(401, postgrest("42501"), access="read"))


def test_a_wait_that_was_asked_for_is_known() -> None:
    error = error_for(429, "", **{"Retry-After": "7"})
    assert getattr(error, "retry_after", None) == 7.0
    error = error_for(503, "", **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    assert getattr(error, "retry_after", None) == 0.0
