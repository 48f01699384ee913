"""API keys of a Supabase project: the kind of a key, and the key that a task needs."""

from __future__ import annotations

import base64
import binascii
import json
import time
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import SecretStr

from backline import errors

Access: TypeAlias = Literal["read", "write"]
"""The access of a key: a publishable (anon) key reads what row level security permits, a secret
(service_role) key also writes."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and its access."""

    secret: SecretStr
    access: Access

    @property
    def text(self) -> str:
        return self.secret.get_secret_value()

    @property
    def is_jwt(self) -> bool:
        """Return whether this is a legacy key. Only those may be sent as a bearer token."""
        return not self.text.startswith("sb_")


def read_key(secret: SecretStr, setting: str) -> ApiKey:
    """Return a key with its access, which its text determines. `setting` names it in an error.

    Raises:
        ProjectKeyError: the text is not a key of a Supabase project, or the key has expired.

    """
    text = secret.get_secret_value().strip()
    key = SecretStr(text)
    if text.startswith("sb_publishable_"):
        return ApiKey(key, "read")
    if text.startswith("sb_secret_"):
        return ApiKey(key, "write")
    claims = _claims(text)
    role = claims.get("role")
    if role not in ("anon", "service_role"):
        raise errors.ProjectKeyError(
            f"{setting} holds no key of a Supabase project. Keys begin with sb_publishable_ or "
            "sb_secret_, or are JWTs of the role anon or service_role. Copy the key from the "
            "dashboard, Settings, API Keys."
        )
    if claims.get("exp", time.time()) < time.time():
        raise errors.ProjectKeyError(
            f"{setting} holds a key that expired at {_utc(claims['exp'])}. Copy a new one from the "
            "dashboard, Settings, API Keys."
        )
    return ApiKey(key, "read" if role == "anon" else "write")


def _claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT. The project verifies its signature."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def choose_key(publishable: SecretStr | None, secret: SecretStr | None, need: Access) -> ApiKey:
    """Return the key for a task: the secret one, or for reads the publishable one.

    Raises:
        ProjectKeyError: no key with the needed access is set, or a key is set under the name of the
            other kind.

    """
    read = read_key(publishable, "SUPABASE_PUBLISHABLE_KEY") if publishable else None
    write = read_key(secret, "SUPABASE_SECRET_KEY") if secret else None
    _check_names(read, write)
    if write is not None:
        return write
    if read is None:
        raise errors.ProjectKeyError(
            "No key of the Supabase project is set. Set SUPABASE_SECRET_KEY (the dashboard, "
            "Settings, API Keys), in the environment or in .env."
        )
    if need == "read":
        return read
    raise errors.ProjectKeyError(
        "Only a publishable (anon) key is set. With it, row level security would discard every "
        "write without an error, and Backline's own tables cannot be read. Set SUPABASE_SECRET_KEY "
        "to the secret (service_role) key, from the dashboard, Settings, API Keys. A search needs "
        "only the publishable one."
    )


def _check_names(publishable: ApiKey | None, secret: ApiKey | None) -> None:
    """Raise if a key is set under the name of the other kind."""
    if publishable is not None and publishable.access == "write":
        raise errors.ProjectKeyError(
            "The setting for the publishable key holds a secret key. Under that name, and above "
            "all as VITE_…, it reaches browsers: revoke it in the dashboard, and set the new one "
            "as SUPABASE_SECRET_KEY."
        )
    if secret is not None and secret.access == "read":
        raise errors.ProjectKeyError(
            "The setting for the secret key holds a publishable (anon) key, which may not write: "
            "row level security would discard every vector. Set the secret (service_role) key, "
            "from the dashboard, Settings, API Keys."
        )
