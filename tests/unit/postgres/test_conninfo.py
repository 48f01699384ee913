"""Database URLs: what they imply, what is wrong with them, and that no message has the password."""

from __future__ import annotations

import psycopg
import pytest

from backline import errors
from backline.postgres.conninfo import (
    address,
    connection_error,
    pooling,
    require_readable,
    timeouts,
)

HOST = "aws-1-eu-west-1.pooler.supabase.com"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:hush@db.example:5433/app", "db.example:5433/app"),
        ("postgres://u:hush@db.example", "db.example/postgres"),
        ("host=db.example password=hush dbname=app", "db.example/app"),
        ("postgresql:///postgres?host=/tmp/pg", "the embedded server/postgres"),
        ("postgresql://u:hush@db.example/app?application_name=me@home", "db.example/app"),
        ("postgresql://u:hu%40sh@db.example/app", "db.example/app"),
        ("postgresql://u:hu#s?h@db.example/app", "db.example/app"),
        ("postgresql://u:hush@db.example?application_name=me@home", "db.example/postgres"),
        ("postgresql:///app?host=db.example&user=me@home", "db.example/app"),
    ],
)
def test_address_omits_the_password(url: str, expected: str) -> None:
    require_readable(url)
    assert address(url) == expected


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("postgresql://u:hu@sh@db.example/app", "%40"),
        ("postgresql://u:hu/sh@db.example/app", "%2F"),
        ("postgresql://u:hu?/sh@db.example/app", "%3F"),
        ("postgresql://u:hu%sh@db.example/app", "%25"),
        ("sb_secret_hush", "SUPABASE_SECRET_KEY"),
        ("sb_publishable_hush", "SUPABASE_SECRET_KEY"),
        ("eyJhbGciOi.hush.hush", "SUPABASE_SECRET_KEY"),
        ("https://hush.supabase.co", "SUPABASE_URL"),
        ("hush", "postgresql://user:password@host:5432/database"),
        ("postgresql://postgres:[YOUR-PASSWORD]@db.example/app", "[YOUR-PASSWORD]"),
        ("postgresql://u:hush@db.example/app?hush=1", "postgresql://user:password"),
    ],
)
def test_malformed_url_is_refused_without_being_quoted(url: str, remedy: str) -> None:
    with pytest.raises(errors.ConfigurationError) as refused:
        require_readable(url)
    assert remedy in str(refused.value)
    assert "hu" not in str(refused.value)
    assert address(url) == "the given URL"


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        (f"postgresql://u:p@{HOST}:6543/postgres", "transaction"),
        (f"postgresql://u:p@{HOST}:5432/postgres", "session"),
        (f"postgresql://u:p@{HOST}/postgres", "session"),
        ("postgresql://u:p@db.ref.supabase.co:6543/postgres", "transaction"),
        ("postgresql://u:p@db.ref.supabase.co:5432/postgres", None),
        ("postgresql://u:p@localhost/postgres", None),
        ("nothing", None),
    ],
)
def test_address_implies_the_mode_of_a_pooler(url: str, mode: str | None) -> None:
    assert pooling(url) == mode


@pytest.mark.parametrize(
    ("where", "message", "kind", "remedy"),
    [
        (HOST, "FATAL:  Tenant or user not found", errors.ProjectPausedError, "restore it"),
        (
            HOST, "FATAL:  (ENOTFOUND) tenant/user postgres.ref not found",
            errors.ProjectPausedError, "postgres.PROJECT",
        ),
        (
            HOST,
            "FATAL:  MaxClientsInSessionMode: max clients reached - in Session mode max clients "
            "are limited to pool_size",
            errors.DatabaseUnavailableError, "port 6543",
        ),
        ("h", "FATAL:  sorry, too many clients already", errors.DatabaseUnavailableError, "6543"),
        (
            "db.abcdefghij.supabase.co:5432/postgres", "Network is unreachable",
            errors.DatabaseUnavailableError, "session pooler",
        ),
        (
            "db.abcdefghij.supabase.co/postgres", "[Errno -2] Name or service not known",
            errors.DatabaseUnavailableError, "IPv6",
        ),
        (
            "h", 'FATAL:  password authentication failed for user "u"',
            errors.DatabaseAuthenticationError, "password",
        ),
        ("h", 'FATAL:  role "u" does not exist', errors.DatabaseAuthenticationError, "user name"),
        ("h", "Connection refused", errors.DatabaseUnavailableError, "server is running"),
    ],
)  # fmt: skip
def test_failed_connection_is_explained(
    where: str, message: str, kind: type[errors.BacklineError], remedy: str
) -> None:
    error = connection_error(psycopg.OperationalError(message), where)
    assert type(error) is kind
    assert remedy in str(error) and message in str(error)


def test_timeouts_of_the_url_take_precedence() -> None:
    defaults = timeouts("postgresql://db.example/app")
    assert {"connect_timeout", "keepalives_idle", "tcp_user_timeout"} <= defaults.keys()
    url = "postgresql://db.example/app?connect_timeout=3&keepalives_idle=99"
    assert timeouts(url).keys() == defaults.keys() - {"connect_timeout", "keepalives_idle"}
    assert timeouts("postgresql://[not a URL") == defaults
