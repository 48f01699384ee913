"""Translate refused calls of a Supabase project into Backline's errors.

The code in the response decides, or else its HTTP status.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx

from backline import errors
from backline.postgres.sqlstate import kind_of
from backline.supabase.keys import ApiKey

# Codes of PostgREST itself. Versions 12 and 16 have different codes for the same error:
# https://docs.postgrest.org/en/stable/references/errors.html
_KEY_CODES: Final = frozenset({"PGRST300", "PGRST301", "PGRST302", "PGRST303"})
_BUSY_CODES: Final = frozenset({"PGRST000", "PGRST001", "PGRST002", "PGRST003"})
_SQLSTATE: Final = re.compile("[0-9A-Z]{5}")
_TABLE_MISSING: Final = frozenset({"PGRST205", "42P01"})
_NOT_MIGRATED: Final = (
    "This project lacks the Backline functions, or has those of another version. Apply the "
    "migrations with `supabase db push` or with `backline migrate --database-url …`. After a "
    "recent migration PostgREST may have an old schema cache: run in SQL, notify pgrst, "
    "'reload schema'."
)
_LONGEST_MESSAGE: Final = 300  # characters


class UnansweredError(errors.DatabaseUnavailableError):
    """The project did not respond, so it is unknown whether the call took effect.

    Attributes:
        retry_after: seconds to wait before the call is repeated.

    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def translate(response: httpx.Response, where: str, key: ApiKey) -> errors.BacklineError:
    """Return the Backline error for an unsuccessful response."""
    body = _body(response)
    code, message = str(body.get("code") or ""), str(body.get("message") or "")
    message = message[:_LONGEST_MESSAGE]
    status = response.status_code
    if code == "PGRST202":
        return errors.NotMigratedError(_NOT_MIGRATED)
    if code in _TABLE_MISSING:
        return errors.TableNotFoundError(f"The project at {where} says: {message} [{code}].")
    if code in _KEY_CODES:
        return _key_refused(where, message, code)
    if code in _BUSY_CODES:
        return UnansweredError(f"The project at {where} is not ready: {message} [{code}].")
    if _SQLSTATE.fullmatch(code):
        return _by_sqlstate(code, message, where, key)
    return _by_status(response, status, message or response.text[:_LONGEST_MESSAGE], where)


def _by_sqlstate(code: str, message: str, where: str, key: ApiKey) -> errors.BacklineError:
    kind = kind_of(code)
    if code.startswith("BL"):
        return kind(message)
    if kind is errors.NotMigratedError:
        return errors.NotMigratedError(_NOT_MIGRATED)
    if kind is errors.PermissionDeniedError:
        role = "service_role" if key.access == "write" else "anon"
        return kind(
            f"The project at {where} says: {message} [{code}]. The key acts as {role}; grant that "
            "role the missing privilege, or use another key."
        )
    if issubclass(kind, errors.DatabaseUnavailableError):
        return UnansweredError(f"The project at {where} says: {message} [{code}].")
    remedy = (inspect.getdoc(kind) or "").partition(". ")[2]
    return kind(f"Postgres behind {where} says: {message} [{code}]. {remedy}".strip())


def _by_status(
    response: httpx.Response, status: int, message: str, where: str
) -> errors.BacklineError:
    if status in (401, 403):
        return _key_refused(where, message, str(status))
    if status in (402, 540):
        return errors.ProjectPausedError(
            f"The project at {where} is paused or suspended ({status}: {message}). Restore it in "
            "the dashboard, then run the command again; stored vectors are kept."
        )
    if status == 404 or response.is_redirect:
        return errors.ConfigurationError(
            f"There is no Supabase project at {where} ({status}: {message}). Set SUPABASE_URL to "
            "https://PROJECT.supabase.co, without a path."
        )
    if status == 429 or status >= 500:
        return UnansweredError(
            f"The gateway of {where} responds {status}: {message or response.reason_phrase}.",
            _retry_after(response),
        )
    return errors.DatabaseError(f"The project at {where} responds {status}: {message}.")


def _key_refused(where: str, message: str, code: str) -> errors.ProjectKeyError:
    return errors.ProjectKeyError(
        f"The project at {where} refuses the key: {message.rstrip('.')} [{code}]. Check that it "
        "is a key of this project and was not revoked or rotated (dashboard, Settings, API Keys)."
    )


def _body(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
