"""What a database URL says, and what its server says when nobody gets in; never its secret."""

from __future__ import annotations

import re
from typing import Final, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict

from backline import errors

_SHAPE: Final = "It should look like postgresql://user:password@host:5432/database."
_ENCODE: Final = (
    "Characters of the password that mean something in a URL must be percent-encoded: "
    "@ as %40, / as %2F, ? as %3F, % as %25."
)


def address(conninfo: str) -> str:
    """Host, port and database of a connection string: what may be shown, without any secret."""
    try:
        require_readable(conninfo)
    except errors.ConfigurationError:
        return "the given URL"
    parts = conninfo_to_dict(conninfo)
    host = parts.get("host") or "localhost"
    shown = "the embedded server" if str(host).startswith("/") else str(host)
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{shown}{port}/{parts.get('dbname') or 'postgres'}"


def require_readable(conninfo: str) -> None:
    """Refuse what is no connection string, or one whose password would be read as something else.

    libpq's own words are not passed on, because they quote what they could not read.

    Raises:
        ConfigurationError: says what it is instead, or how to write it.

    """
    if re.match(r"sb_(secret|publishable)_|eyJ", conninfo):
        raise errors.ConfigurationError(
            "The database URL is an API key. Take the connection string from the dashboard "
            "(Connect); a key goes into SUPABASE_SECRET_KEY, for --via rest."
        )
    if re.match(r"https?://", conninfo):
        raise errors.ConfigurationError(
            f"The database URL is a web address. {_SHAPE} Supabase's dashboard has it under "
            "Connect; the web address goes into SUPABASE_URL, for --via rest."
        )
    if "[YOUR-PASSWORD]" in conninfo:
        raise errors.ConfigurationError(
            "The database URL still says [YOUR-PASSWORD]. Put the database's password in its place."
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
    """Whether libpq would read a part of the password as the host, the port or the database.

    It takes for user and password what is before the first @, if no / comes before that.
    """
    scheme, found, rest = conninfo.partition("://")
    if not found or scheme not in ("postgresql", "postgres"):
        return False
    login = re.match(r"[^@/]*@", rest)
    place = rest[login.end() :] if login else rest
    if login is None and "?" in place.partition("/")[0]:
        return "@" in place
    return "@" in place.partition("?")[0]


def pooling(conninfo: str) -> Literal["transaction", "session"] | None:
    """What an address says of a pooler behind it; None: it says nothing.

    Supabase's poolers work by transaction at port 6543 and by session at 5432.
    """
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return None
    if str(parts.get("port")) == "6543":
        return "transaction"
    supabase = str(parts.get("host") or "").endswith(".pooler.supabase.com")
    return "session" if supabase else None


def no_entry(error: Exception, where: str) -> errors.BacklineError:
    """Why nobody gets in.

    libpq gives no SQLSTATE then, and a pooler gives XX000 whatever it is, so that here, and nowhere
    else, words are read.
    """
    if isinstance(error, psycopg.ProgrammingError):
        return errors.ConfigurationError(f"The database URL cannot be read. {_SHAPE}")
    # libpq's hints, such as "Is the server running …?", are lines that begin with a tab.
    said = [line for line in str(error).strip().splitlines() if not line.startswith("\t")]
    last = said[-1] if said else type(error).__name__
    if re.search(r"tenant(/user| or user) .*not found", str(error), re.IGNORECASE):
        return errors.ProjectPausedError(
            f"The pooler at {where} knows no such project: {last}. If it is paused, restore it in "
            "the dashboard. If not, copy the connection string again (Connect): its host and its "
            "user, postgres.PROJECT, must be exactly those."
        )
    if re.search(
        r"password authentication failed|no password supplied|role \"|no such user", str(error)
    ):
        return errors.DatabaseAuthenticationError(
            f"Postgres at {where} refused the login: {last}. "
            "Check the user name and the password in the database URL."
        )
    return errors.DatabaseUnavailableError(
        f"Postgres at {where} cannot be reached: {last}. {_remedy(str(error), where)}"
    )


def _remedy(said: str, where: str) -> str:
    if re.search(r"max.{0,8}client|too many (clients|connections)|connection slots", said, re.I):
        return (
            "All of its connections are taken: stop what else uses it, or use the transaction "
            "pooler (port 6543), which serves more clients."
        )
    if re.match(r"db\.[a-z0-9]+\.supabase\.(co|com|in|red):?", where):
        return (
            "A direct connection needs IPv6, and a paused project has no address at all: use the "
            "session pooler's connection string (dashboard, Connect), or restore the project."
        )
    return "Check the database URL, and that the server is running."
