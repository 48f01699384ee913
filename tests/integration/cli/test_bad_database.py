"""A database that is not there, not ours, or not ready: one line that names the remedy, exit 2."""

from __future__ import annotations

import re

import psycopg
import pytest
from tests.conftest import Postgres
from tests.integration.cli.conftest import Cli, Outcome, TcpServer


def refused(outcome: Outcome, kind: str, *patterns: str) -> None:
    """The error is on standard error for people, and the one object on standard output."""
    said = outcome.json["error"]
    assert said["kind"] == kind, said
    assert said["exit_code"] == outcome.code == 2
    for pattern in patterns:
        assert re.search(pattern, said["message"]), (pattern, said["message"])
    assert said["message"] in outcome.err
    assert "correct horse" not in outcome.err + outcome.out
    assert "wr0ng" not in outcome.err + outcome.out


def test_a_server_over_tcp_with_a_password_serves(bare: Cli, tcp_server: TcpServer) -> None:
    done = bare("migrate", "--json", "--database-url", tcp_server.url())
    assert done.json["applied"][0].endswith("_backline")
    assert bare("status", "--json", DATABASE_URL=tcp_server.url()).json["collections"]


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
def test_each_part_of_a_wrong_url_is_named(
    bare: Cli, tcp_server: TcpServer, wrong: dict[str, object], kind: str, pattern: str
) -> None:
    outcome = bare("status", "--json", code=2, DATABASE_URL=tcp_server.url(**wrong))
    refused(outcome, kind, pattern)


@pytest.mark.parametrize("url", ["localhost:5432", "mysql://h/d"])
def test_what_is_no_url_is_said_to_be_none(bare: Cli, url: str) -> None:
    outcome = bare("status", "--json", "--database-url", url, code=2)
    assert "postgresql://user:password@host:5432/database" in outcome.json["error"]["message"]


def test_an_empty_url_is_not_another_database(bare: Cli) -> None:
    outcome = bare("status", "--json", "--database-url", "", code=2)
    refused(outcome, "ConfigurationError", "--database-url is empty")


@pytest.mark.parametrize("command", ["status", "backfill", "verify", "failures list", "runs list"])
def test_a_database_without_our_schema(bare: Cli, empty_database: str, command: str) -> None:
    outcome = bare(*command.split(), "--json", code=2, DATABASE_URL=empty_database)
    refused(outcome, "NotMigratedError", "Run: backline migrate")


def test_a_server_without_pgvector(bare: Cli, postgres: Postgres) -> None:
    name = postgres.create()
    with psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute(f"alter database {name} set extension_control_path = '/nowhere'")
    outcome = bare("migrate", "--json", code=2, DATABASE_URL=postgres.url(name))
    refused(outcome, "ExtensionMissingError", "pgvector", "Install it")
    postgres.drop(name)


def test_a_role_that_may_not_create_a_schema(bare: Cli, tcp_server: TcpServer) -> None:
    with psycopg.connect(tcp_server.url(), autocommit=True) as connection:
        connection.execute("create role clerk login password 'correct horse'")
        connection.execute("create database ledger")
    url = tcp_server.url(user="clerk", database="ledger")
    outcome = bare("migrate", "--json", code=2, DATABASE_URL=url)
    refused(outcome, "PermissionDeniedError", "Use the table's owner")


@pytest.mark.parametrize("folder", ["with space/pg", "file/pg"])
def test_a_folder_that_no_server_can_live_in(bare: Cli, folder: str) -> None:
    (bare.folder / "file").write_text("")
    outcome = bare("status", "--json", "--data-dir", str(bare.folder / folder), code=2)
    refused(outcome, "DatabaseUnavailableError", "--data-dir")
