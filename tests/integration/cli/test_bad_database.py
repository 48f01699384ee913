"""A database that is unreachable, unsuitable or not migrated: exit 2 and a remedy in one line."""

from __future__ import annotations

import re

import psycopg
import pytest
from tests.conftest import Postgres
from tests.integration.cli.conftest import Cli, Outcome, TcpServer


def refused(outcome: Outcome, kind: str, *patterns: str) -> None:
    """Check the error: text on standard error, a JSON object on standard output, no password."""
    error = outcome.json["error"]
    assert error["kind"] == kind, error
    assert error["exit_code"] == outcome.code == 2
    for pattern in patterns:
        assert re.search(pattern, error["message"]), (pattern, error["message"])
    assert error["message"] in outcome.err
    assert "correct horse" not in outcome.err + outcome.out
    assert "wr0ng" not in outcome.err + outcome.out


def test_a_server_over_tcp_with_a_password_is_reached(bare: Cli, tcp_server: TcpServer) -> None:
    done = bare("migrate", "--json", "--database-url", tcp_server.url())
    assert done.json["applied"][0].endswith("_backline_schema_tables")
    assert bare("status", "--json", DATABASE_URL=tcp_server.url()).json["collections"] == []


@pytest.mark.parametrize(
    ("wrong", "kind", "pattern"),
    [
        ({"host": "no.such.host.invalid"}, "DatabaseUnavailableError", "no.such.host.invalid"),
        ({"port": 1}, "DatabaseUnavailableError", r"127\.0\.0\.1:1/.*server is running"),
        ({"database": "nope"}, "DatabaseUnavailableError", "nope"),
        ({"user": "stranger"}, "DatabaseAuthenticationError", "user name and the password"),
        ({"password": "wr0ng"}, "DatabaseAuthenticationError", "user name and the password"),
    ],
)
def test_the_wrong_part_of_a_url_is_named(
    bare: Cli, tcp_server: TcpServer, wrong: dict[str, object], kind: str, pattern: str
) -> None:
    outcome = bare("status", "--json", code=2, DATABASE_URL=tcp_server.url(**wrong))
    refused(outcome, kind, pattern)


@pytest.mark.parametrize("url", ["localhost:5432", "mysql://h/d"])
def test_a_malformed_url_gets_an_example_of_the_format(bare: Cli, url: str) -> None:
    outcome = bare("status", "--json", "--database-url", url, code=2)
    assert "postgresql://user:password@host:5432/database" in outcome.json["error"]["message"]


def test_an_empty_url_does_not_select_the_embedded_database(bare: Cli) -> None:
    outcome = bare("status", "--json", "--database-url", "", code=2)
    refused(outcome, "ConfigurationError", "--database-url is empty")


@pytest.mark.parametrize("command", ["status", "backfill", "verify", "failures list", "runs list"])
def test_a_database_without_the_schema_is_refused(
    bare: Cli, empty_database: str, command: str
) -> None:
    outcome = bare(*command.split(), "--json", code=2, DATABASE_URL=empty_database)
    refused(outcome, "NotMigratedError", "Run: backline migrate")


def test_a_server_without_pgvector_is_refused(bare: Cli, postgres: Postgres) -> None:
    name = postgres.create()
    with psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute(f"alter database {name} set extension_control_path = '/nowhere'")
    outcome = bare("migrate", "--json", code=2, DATABASE_URL=postgres.url(name))
    refused(outcome, "ExtensionMissingError", "pgvector", "Install it")
    postgres.drop(name)


def test_a_role_without_the_right_to_create_a_schema_is_refused(
    bare: Cli, tcp_server: TcpServer
) -> None:
    with psycopg.connect(tcp_server.url(), autocommit=True) as connection:
        connection.execute("create role clerk login password 'correct horse'")
        connection.execute("create database ledger")
    url = tcp_server.url(user="clerk", database="ledger")
    outcome = bare("migrate", "--json", code=2, DATABASE_URL=url)
    refused(outcome, "PermissionDeniedError", "Use the table's owner")


@pytest.mark.parametrize("folder", ["with space/pg", "file/pg"])
def test_a_folder_that_cannot_hold_a_server_is_refused(bare: Cli, folder: str) -> None:
    (bare.folder / "file").write_text("")
    outcome = bare("status", "--json", "--data-dir", str(bare.folder / folder), code=2)
    refused(outcome, "DatabaseUnavailableError", "--data-dir")
