"""Keys of a Supabase project: their access, and which one a task needs."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from pydantic import SecretStr

from backline import errors
from backline.supabase.keys import choose_key, read_key

SECRET = SecretStr("sb_secret_abc")
PUBLISHABLE = SecretStr("sb_publishable_abc")


def jwt(**claims: Any) -> SecretStr:
    parts = [b'{"alg":"HS256"}', json.dumps(claims).encode(), b"signature"]
    return SecretStr(".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts))


ANON = jwt(role="anon", exp=4_000_000_000)
SERVICE = jwt(role="service_role", exp=4_000_000_000)


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
def test_text_of_a_key_determines_its_access(
    secret: SecretStr, access: str, *, is_jwt: bool
) -> None:
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
def test_invalid_key_is_refused_without_being_quoted(secret: SecretStr) -> None:
    with pytest.raises(errors.ProjectKeyError, match=r"^A_NAME holds") as caught:
        read_key(secret, "A_NAME")
    assert secret.get_secret_value() not in str(caught.value)


def test_secret_key_is_preferred_and_publishable_key_reads() -> None:
    for need in ("read", "write"):
        assert choose_key(PUBLISHABLE, SECRET, need).text == "sb_secret_abc"
    assert choose_key(None, SERVICE, "read").access == "write"
    assert choose_key(PUBLISHABLE, None, "read").text == "sb_publishable_abc"
    assert choose_key(ANON, None, "read").is_jwt


@pytest.mark.parametrize(
    ("publishable", "secret", "message"),
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
def test_wrong_key_is_explained(
    publishable: SecretStr | None, secret: SecretStr | None, message: str
) -> None:
    with pytest.raises(errors.ProjectKeyError, match=message) as caught:
        choose_key(publishable, secret, "write")
    assert caught.value.exit_code == 2
    for key in (publishable, secret):
        assert key is None or key.get_secret_value() not in str(caught.value)
