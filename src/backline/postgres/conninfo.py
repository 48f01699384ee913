"""Read database URLs, and explain failed connections without revealing the password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict

from backline import errors

_SHAPE: Final = "It should look like postgresql://user:password@host:5432/database."
_ENCODE: Final = (
    "Reserved characters in the password must be percent-encoded: "
    "@ as %40, / as %2F, ? as %3F, % as %25."
)

# A peer that has gone is noticed within 25 s; an address that does not respond, within 10 s.
_TIMEOUTS: Final[Mapping[str, int]] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


def timeouts(conninfo: str) -> dict[str, int]:
    """Return the network timeouts of libpq, without those that a connection string sets itself."""
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:  # `require_readable` explains it
        given = {}
    return {name: value for name, value in _TIMEOUTS.items() if name not in given}


def address(conninfo: str) -> str:
    """Return host, port and database of a connection string, without its password."""
    try:
        require_readable(conninfo)
    except errors.ConfigurationError:
        return "the given URL"
    parts = conninfo_to_dict(conninfo)
    host = parts.get("host") or "localhost"
    name = "the embedded server" if str(host).startswith("/") else str(host)
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{name}{port}/{parts.get('dbname') or 'postgres'}"


def require_readable(conninfo: str) -> None:
    """Raise unless a text is a connection string that libpq reads as its author meant it.

    The messages of libpq are not passed on, because they quote the text and with it the password.

    Raises:
        ConfigurationError: it is a key, a web address, a template or malformed.

    """
    if re.match(r"sb_(secret|publishable)_|eyJ", conninfo):
        raise errors.ConfigurationError(
            "The database URL is an API key. Copy the connection string from the dashboard "
            "(Connect); a key goes into SUPABASE_SECRET_KEY, for --via rest."
        )
    if re.match(r"https?://", conninfo):
        raise errors.ConfigurationError(
            f"The database URL is a web address. {_SHAPE} Copy it from Supabase's dashboard "
            "(Connect); the web address goes into SUPABASE_URL, for --via rest."
        )
    if "[YOUR-PASSWORD]" in conninfo:
        raise errors.ConfigurationError(
            "The database URL contains [YOUR-PASSWORD]. Replace it with the database's password."
        )
    if _has_open_password(conninfo):
        raise errors.ConfigurationError(f"The database URL cannot be read. {_ENCODE}")
    try:
        conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        is_url = re.match(r"postgres(ql)?://", conninfo)
        raise errors.ConfigurationError(
            f"The database URL cannot be read. {_SHAPE}{f' {_ENCODE}' if is_url else ''}"
        ) from None


def _has_open_password(conninfo: str) -> bool:
    """Return whether libpq would read part of the password as host, port or database.

    libpq reads the text before the first @ as user and password, if it contains no /.
    """
    scheme, separator, rest = conninfo.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        return False
    login = re.match(r"[^@/]*@", rest)
    place = rest[login.end() :] if login else rest
    if login is None and "?" in place.partition("/")[0]:
        return "@" in place
    return "@" in place.partition("?")[0]


def pooling(conninfo: str) -> Literal["transaction", "session"] | None:
    """Return the mode of the pooler that an address implies, or None if it implies none.

    Supabase's poolers use transaction mode at port 6543 and session mode at 5432.
    """
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return None
    if str(parts.get("port")) == "6543":
        return "transaction"
    supabase = str(parts.get("host") or "").endswith(".pooler.supabase.com")
    return "session" if supabase else None


def connection_error(error: Exception, where: str) -> errors.BacklineError:
    """Return the Backline error for a failed connection.

    libpq has no SQLSTATE for one, and poolers use XX000 for all of them. Therefore the text of the
    error decides, unlike for every other error.
    """
    if isinstance(error, psycopg.ProgrammingError):
        return errors.ConfigurationError(f"The database URL cannot be read. {_SHAPE}")
    message = _last_line(error)
    if re.search(r"tenant(/user| or user) .*not found", str(error), re.IGNORECASE):
        return errors.ProjectPausedError(
            f"The pooler at {where} knows no such project: {message}. If it is paused, restore it "
            "in the dashboard. If not, copy the connection string again (Connect): its host and "
            "its user, postgres.PROJECT, must be exact."
        )
    if re.search(
        r"password authentication failed|no password supplied|role \"|no such user", str(error)
    ):
        return errors.DatabaseAuthenticationError(
            f"Postgres at {where} refused the login: {message}. "
            "Check the user name and the password in the database URL."
        )
    return errors.DatabaseUnavailableError(
        f"Postgres at {where} cannot be reached: {message}. {_remedy(str(error), where)}"
    )


def _last_line(error: Exception) -> str:
    """Return the last line of libpq's message. Its hints are lines that begin with a tab."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("\t")]
    return lines[-1] if lines else type(error).__name__


def _remedy(message: str, where: str) -> str:
    if re.search(r"max.{0,8}client|too many (clients|connections)|connection slots", message, re.I):
        return (
            "All of its connections are in use: stop other clients, or use the transaction pooler "
            "(port 6543), which serves more of them."
        )
    if re.match(r"db\.[a-z0-9]+\.supabase\.(co|com|in|red):?", where):
        return (
            "A direct connection needs IPv6, and a paused project has no address: use the session "
            "pooler's connection string (dashboard, Connect), or restore the project."
        )
    return "Check the database URL, and that the server is running."
