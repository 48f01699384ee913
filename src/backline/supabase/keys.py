"""API keys of a Supabase project: which kind a key is, and which one a task needs."""

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
"""What a key may do: a publishable (anon) key reads what row level security lets it, a secret
(service_role) key also writes."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and what it may do."""

    secret: SecretStr
    access: Access

    @property
    def text(self) -> str:
        return self.secret.get_secret_value()

    @property
    def is_jwt(self) -> bool:
        """A legacy key, which is a JWT; others are opaque and may travel in `apikey` only."""
        return not self.text.startswith("sb_")


def read_key(secret: SecretStr, setting: str) -> ApiKey:
    """Tell the kind of a key from the key itself; `setting` names it in an error.

    Raises:
        ProjectKeyError: it is no key of a Supabase project, or it has expired.

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
            f"{setting} holds no key of a Supabase project: those begin with sb_publishable_ or "
            "sb_secret_, or are JWTs of the role anon or service_role. Copy it anew from the "
            "dashboard, Settings, API Keys."
        )
    if claims.get("exp", time.time()) < time.time():
        raise errors.ProjectKeyError(
            f"{setting} holds a key that expired at {_utc(claims['exp'])}. Copy a new one from the "
            "dashboard, Settings, API Keys."
        )
    return ApiKey(key, "read" if role == "anon" else "write")


def _claims(token: str) -> dict[str, Any]:
    """What a JWT says of itself; its signature is the project's to check."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def choose_key(publishable: SecretStr | None, secret: SecretStr | None, need: Access) -> ApiKey:
    """The key for a task: the secret one, or, for a search, the publishable one where it is alone.

    Raises:
        ProjectKeyError: no key is set, or only one that may not do this, or one that is in the
            place of the other.

    """
    read = read_key(publishable, "SUPABASE_PUBLISHABLE_KEY") if publishable else None
    write = read_key(secret, "SUPABASE_SECRET_KEY") if secret else None
    if read is not None and read.access == "write":
        raise errors.ProjectKeyError(
            "The setting for the publishable key holds a secret key. Under that name, and above "
            "all as VITE_…, it reaches browsers: revoke it in the dashboard, and set the new one "
            "as SUPABASE_SECRET_KEY."
        )
    if write is not None and write.access == "read":
        raise errors.ProjectKeyError(
            "The setting for the secret key holds a publishable (anon) key, which may not write: "
            "row level security would discard every vector. Set the secret (service_role) key, "
            "from the dashboard, Settings, API Keys."
        )
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
        "write without an error, and Backline's own tables cannot be read: nothing would be "
        "embedded. Set SUPABASE_SECRET_KEY to the secret (service_role) key, from the dashboard, "
        "Settings, API Keys. A search needs only the publishable one."
    )
