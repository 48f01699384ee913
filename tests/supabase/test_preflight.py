"""Faults of a database are found before anything is embedded, and messages name the remedy."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.provider import StandInProvider
from tests.supabase.inline import InlineCli as Cli
from tests.supabase.processes import RESPONSE_TIMEOUT_S
from tests.supabase.server import API_KEY, server_running
from tests.supabase.stack import Project

MODEL = "openai/text-embedding-3-small@384"


@pytest.fixture
def backline(tmp_path: Path, project: Project, provider: StandInProvider) -> Iterator[Cli]:
    """The command line with a provider, which must have received no call at the end."""
    yield Cli(
        tmp_path,
        {
            "DATABASE_URL": project.url,
            "OPENAI_API_KEY": provider.api_key,
            "OPENAI_BASE_URL": provider.base_url,
        },
    )
    assert provider.calls == [], "a text was embedded"


def make_documents(project: Project, column: str = "") -> None:
    """Make a table of ten rows, with one more column if given."""
    project.execute(f"create table documents (id int primary key, body text{column})")
    project.execute("insert into documents select i, 'text ' || i from generate_series(1, 10) i")


def refusal(backline: Cli, *arguments: str) -> str:
    """Run a command that must be refused; return its message."""
    return backline(*arguments, code=2).err


@contextmanager
def as_superuser(project: Project) -> Iterator[psycopg.Connection]:
    with psycopg.connect(project.admin_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def worker(project: Project) -> Iterator[str]:
    """The URL of a role in service_role, without privileges on the test's table."""
    name = f"worker_of_{project.name}"
    with as_superuser(project) as superuser:
        superuser.execute(f"create role {name} login password 'postgres' in role service_role")
        yield project.stack.url(project.name, name)
        superuser.execute(f"drop owned by {name}")
        superuser.execute(f"drop role {name}")


# --- dimensions -----------------------------------------------------------------------------------


def test_add_refuses_a_column_of_other_dimensions(backline: Cli, project: Project) -> None:
    make_documents(project, ", embedding extensions.vector(1536)")
    message = refusal(backline, "add", "documents", "--text", "{body}", "--model", MODEL)
    assert "1536" in message and "384" in message and "--column embedding_384" in message
    [(declared,)] = project.execute("select count(*) from backline.collections")
    assert declared == 1, "a collection was added to the one of the migrations"


def test_column_changed_after_its_declaration_is_refused(backline: Cli, project: Project) -> None:
    make_documents(project)
    backline("add", "documents", "--text", "{body}", "--model", MODEL)
    project.execute("alter table documents alter column embedding type extensions.vector(1536)")
    message = refusal(backline, "backfill", "documents")
    assert "1536" in message and "384" in message
    message = refusal(backline, "sync", "documents")
    assert "1536" in message and "384" in message


# --- privileges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["backfill", "sync"])
def test_missing_grants_are_named_as_statements(
    backline: Cli, project: Project, worker: str, command: str
) -> None:
    make_documents(project)
    backline("add", "documents", "--text", "{body}", "--model", MODEL)
    backline.environment["DATABASE_URL"] = worker
    message = refusal(backline, command, "documents")
    name = f"worker_of_{project.name}"
    assert f"grant select, update on public.documents to {name};" in message
    project.execute(f"grant select on documents to {name}")
    assert "grant select, update" in refusal(backline, command, "documents")


def test_table_with_rows_hidden_by_policies_is_not_taken_for_empty(
    backline: Cli, project: Project, worker: str
) -> None:
    make_documents(project)
    backline("add", "documents", "--text", "{body}", "--model", "hash@8")
    name = f"worker_of_{project.name}"
    project.execute("alter table documents enable row level security")
    project.execute(f"grant select, update on documents to {name}")
    backline.environment["DATABASE_URL"] = worker
    message = refusal(backline, "backfill", "documents")
    _, _, statement = message.partition("Let its owner run: ")
    assert statement.startswith("create policy ")
    project.execute(statement.rstrip(";"))
    report = backline("backfill", "documents", "--json").json
    assert (report["embedded"], report["complete"]) == (10, True)


def test_commands_that_read_need_only_the_privilege_to_read(
    backline: Cli, project: Project, worker: str
) -> None:
    make_documents(project)
    backline("add", "documents", "--text", "{body}", "--model", "hash@8")
    backline("backfill", "documents")
    name = f"worker_of_{project.name}"
    backline.environment["DATABASE_URL"] = worker
    assert f"grant select on public.documents to {name};" in refusal(
        backline, "verify", "documents"
    )
    project.execute(f"grant select on documents to {name}")
    assert backline("verify", "documents", "--json").json["rows"] == 10
    project.execute("alter table documents enable row level security")
    message = refusal(backline, "verify", "documents")  # row security would hide every row
    _, _, statement = message.partition("Let its owner run: ")
    assert " for select to " in statement
    project.execute(statement.rstrip(";"))
    assert backline("verify", "documents", "--json").json["rows"] == 10
    with server_running(project, DATABASE_URL=worker) as address:
        parameters = {"collection": "documents"}
        key = {"Authorization": f"Bearer {API_KEY}"}
        response = httpx.get(
            f"{address}/api/map",
            params=parameters,
            headers=key,
            trust_env=False,
            timeout=RESPONSE_TIMEOUT_S,
        )
        assert response.status_code == 200, response.text
        assert len(response.json()["keys"]) == 10
    message = refusal(backline, "backfill", "documents")
    project.execute(message.partition("Let its owner run: ")[2])  # the policy for reading remains
    project.execute("update documents set body = 'other' where id = 1")
    assert backline("backfill", "documents", "--json").json["embedded"] == 1


def test_role_outside_service_role_is_refused(backline: Cli, project: Project, worker: str) -> None:
    with as_superuser(project) as superuser:
        superuser.execute(f"revoke service_role from worker_of_{project.name}")
    backline.environment["DATABASE_URL"] = worker
    for command in ("status", "backfill", "verify"):
        assert "member of service_role" in refusal(backline, command)


# --- pgvector -------------------------------------------------------------------------------------


def test_migrate_without_pgvector_names_the_extension(backline: Cli, bare_project: Project) -> None:
    with as_superuser(bare_project) as superuser:
        superuser.execute("drop extension vector")
    backline.environment["DATABASE_URL"] = bare_project.url
    message = refusal(backline, "migrate")
    assert "dashboard (Database, Extensions)" in message
    assert "create extension vector" in message
    with as_superuser(bare_project) as superuser:
        superuser.execute("create extension vector with schema extensions")
    assert backline("migrate", "--json").json["applied"]


@pytest.mark.parametrize("schema", ["public", "Vektor Raum"])
def test_pgvector_may_be_in_any_schema(backline: Cli, bare_project: Project, schema: str) -> None:
    with as_superuser(bare_project) as superuser:
        superuser.execute("drop extension vector")
        superuser.execute(f'create schema if not exists "{schema}"')
        superuser.execute(f'grant usage on schema "{schema}" to public')
        superuser.execute(f'create extension vector with schema "{schema}"')
    make_documents(bare_project)
    backline.environment["DATABASE_URL"] = bare_project.url
    backline("migrate")
    backline("add", "documents", "--text", "{body}", "--model", "hash@8")
    assert backline("backfill", "documents", "--json").json["complete"]
    assert backline("verify", "documents", "--json").json["passed"]
    assert backline("search", "text 7", "-c", "documents", "--json").json["hits"]


@pytest.mark.parametrize("command", ["status", "backfill", "verify", "search"])
def test_dropped_pgvector_is_named(backline: Cli, project: Project, command: str) -> None:
    with as_superuser(project) as superuser:
        superuser.execute("drop extension vector cascade")
    message = refusal(backline, command, *(["muddy"] if command == "search" else []))
    assert "pgvector was dropped" in message


@pytest.mark.parametrize("command", ["backfill", "verify", "search"])
def test_dropped_column_is_named(backline: Cli, project: Project, command: str) -> None:
    make_documents(project)
    backline("add", "documents", "--text", "{body}", "--model", MODEL)
    project.execute("alter table documents drop column embedding")
    arguments = ["text 7", "-c"] if command == "search" else []
    message = refusal(backline, command, *arguments, "documents")
    assert "The column embedding of public.documents is gone" in message
    assert "backline reconcile documents" in message


# --- poolers and connection strings ---------------------------------------------------------------


class Pooler(socketserver.ThreadingTCPServer):
    """A pooler that refuses every login with `message`."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(("127.0.0.1", 0), Refusal)


class Refusal(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while True:
            length, code = struct.unpack("!II", self.rfile.read(8))
            self.rfile.read(length - 8)
            if code not in (80877103, 80877104):  # a request for TLS or GSS encryption
                break
            self.wfile.write(b"N")
        assert isinstance(self.server, Pooler)
        fields = f"SFATAL\0VFATAL\0CXX000\0M{self.server.message}\0\0".encode()
        self.wfile.write(b"E" + struct.pack("!I", len(fields) + 4) + fields)


@pytest.mark.parametrize(
    ("message", "kind", "remedy"),
    [
        ("Tenant or user not found", "ProjectPausedError", "restore it in the dashboard"),
        (
            "(ENOTFOUND) tenant/user postgres.ref not found",
            "ProjectPausedError", "restore it in the dashboard",
        ),
        (
            "MaxClientsInSessionMode: max clients reached - in Session mode max clients are "
            "limited to pool_size",
            "DatabaseUnavailableError", "transaction pooler (port 6543)",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["status", "backfill"])
def test_refusal_of_a_pooler_names_the_remedy(
    backline: Cli, message: str, kind: str, remedy: str, command: str
) -> None:
    with Pooler(message) as pooler:
        threading.Thread(target=pooler.serve_forever, daemon=True).start()
        port = pooler.server_address[1]
        backline.environment["DATABASE_URL"] = f"postgresql://postgres.ref:hush@127.0.0.1:{port}/p"
        outcome = backline(command, "--json", code=2)
        pooler.shutdown()
    assert outcome.json["error"]["kind"] == kind
    assert (
        remedy in outcome.json["error"]["message"] and message in outcome.json["error"]["message"]
    )
    assert "hush" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [("secret", "SUPABASE_SECRET_KEY"), ("service_jwt", "SUPABASE_SECRET_KEY")],
)
def test_key_given_as_connection_string_is_recognized(
    backline: Cli, project: Project, kind: str, remedy: str
) -> None:
    key = getattr(project.keys, kind)
    backline.environment["DATABASE_URL"] = key
    outcome = backline("backfill", "--json", code=2)
    assert remedy in outcome.json["error"]["message"]
    assert key[12:] not in outcome.out + outcome.err


def test_password_that_breaks_the_url_is_not_printed(backline: Cli) -> None:
    for password in ("hu@sh", "hu/sh", "hu%sh"):
        backline.environment["DATABASE_URL"] = f"postgresql://u:{password}@127.0.0.1:1/postgres"
        outcome = backline("status", "--json", code=2)
        assert "percent-encoded" in outcome.json["error"]["message"]
        assert password not in outcome.out + outcome.err and "sh@" not in outcome.out + outcome.err
