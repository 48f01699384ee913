"""What cannot work is found before anything is spent, and said with the remedy."""

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
from tests.supabase.server import API_KEY, server_running
from tests.supabase.stack import PATIENCE_S, Project

MODEL = "openai/text-embedding-3-small@384"


@pytest.fixture
def backline(tmp_path: Path, project: Project, provider: StandInProvider) -> Iterator[Cli]:
    """The program with a model that costs money; nothing may have been spent at the end."""
    yield Cli(
        tmp_path,
        {
            "DATABASE_URL": project.url,
            "OPENAI_API_KEY": provider.api_key,
            "OPENAI_BASE_URL": provider.base_url,
        },
    )
    assert provider.calls == [], "something was spent"


def documents(project: Project, column: str = "") -> None:
    """A table of ten rows; `column` is one more column."""
    project.execute(f"create table documents (id int primary key, body text{column})")
    project.execute("insert into documents select i, 'text ' || i from generate_series(1, 10) i")


def refused(backline: Cli, *arguments: str) -> str:
    """What the program says when it refuses: exit code 2."""
    return backline(*arguments, code=2).err


@contextmanager
def as_superuser(project: Project) -> Iterator[psycopg.Connection]:
    with psycopg.connect(project.admin_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def worker(project: Project) -> Iterator[str]:
    """The URL of a role that may work for Backline, and has no rights on any table of ours."""
    name = f"worker_of_{project.name}"
    with as_superuser(project) as superuser:
        superuser.execute(f"create role {name} login password 'postgres' in role service_role")
        yield project.stack.url(project.name, name)
        superuser.execute(f"drop owned by {name}")
        superuser.execute(f"drop role {name}")


# --- dimensions -----------------------------------------------------------------------------------


def test_a_model_of_384_dimensions_and_a_column_of_1536(backline: Cli, project: Project) -> None:
    documents(project, ", embedding extensions.vector(1536)")
    said = refused(backline, "add", "documents", "--text", "{body}", "--model", MODEL)
    assert "1536" in said and "384" in said and "--column embedding_384" in said
    [(declared,)] = project.execute("select count(*) from backline.collections")
    assert declared == 1, "only the one that ships"


def test_a_column_that_somebody_changed_after_it_was_declared(
    backline: Cli, project: Project
) -> None:
    documents(project)
    backline("add", "documents", "--text", "{body}", "--model", MODEL)
    project.execute("alter table documents alter column embedding type extensions.vector(1536)")
    said = refused(backline, "backfill", "documents")
    assert "1536" in said and "384" in said
    said = refused(backline, "sync", "documents")
    assert "1536" in said and "384" in said


# --- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["backfill", "sync"])
def test_missing_grants_are_named_as_statements_that_mend_them(
    backline: Cli, project: Project, worker: str, command: str
) -> None:
    documents(project)
    backline("add", "documents", "--text", "{body}", "--model", MODEL)
    backline.environment["DATABASE_URL"] = worker
    said = refused(backline, command, "documents")
    name = f"worker_of_{project.name}"
    assert f"grant select, update on public.documents to {name};" in said
    project.execute(f"grant select on documents to {name}")
    assert "grant select, update" in refused(backline, command, "documents")


def test_a_table_whose_policies_hide_its_rows_is_no_empty_table(
    backline: Cli, project: Project, worker: str
) -> None:
    documents(project)
    backline("add", "documents", "--text", "{body}", "--model", "hash@8")
    name = f"worker_of_{project.name}"
    project.execute("alter table documents enable row level security")
    project.execute(f"grant select, update on documents to {name}")
    backline.environment["DATABASE_URL"] = worker
    said = refused(backline, "backfill", "documents")
    _, _, statement = said.partition("Let its owner run: ")
    assert statement.startswith("create policy ")
    project.execute(statement.rstrip(";"))
    report = backline("backfill", "documents", "--json").json
    assert (report["embedded"], report["complete"]) == (10, True)


def test_whoever_only_reads_needs_only_to_read(
    backline: Cli, project: Project, worker: str
) -> None:
    documents(project)
    backline("add", "documents", "--text", "{body}", "--model", "hash@8")
    backline("backfill", "documents")
    name = f"worker_of_{project.name}"
    backline.environment["DATABASE_URL"] = worker
    assert f"grant select on public.documents to {name};" in refused(
        backline, "verify", "documents"
    )
    project.execute(f"grant select on documents to {name}")
    assert backline("verify", "documents", "--json").json["rows"] == 10
    project.execute("alter table documents enable row level security")
    said = refused(backline, "verify", "documents")  # it would have seen an empty table
    _, _, statement = said.partition("Let its owner run: ")
    assert " for select to " in statement
    project.execute(statement.rstrip(";"))
    assert backline("verify", "documents", "--json").json["rows"] == 10
    with server_running(project, DATABASE_URL=worker) as address:
        asked = {"collection": "documents"}
        key = {"Authorization": f"Bearer {API_KEY}"}
        answer = httpx.get(
            f"{address}/api/map", params=asked, headers=key, trust_env=False, timeout=PATIENCE_S
        )
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["keys"]) == 10
    said = refused(backline, "backfill", "documents")
    project.execute(said.partition("Let its owner run: ")[2])  # beside the policy for reading
    project.execute("update documents set body = 'other' where id = 1")
    assert backline("backfill", "documents", "--json").json["embedded"] == 1


def test_a_role_that_has_nothing_to_do_with_backline(
    backline: Cli, project: Project, worker: str
) -> None:
    with as_superuser(project) as superuser:
        superuser.execute(f"revoke service_role from worker_of_{project.name}")
    backline.environment["DATABASE_URL"] = worker
    for command in ("status", "backfill", "verify"):
        assert "member of service_role" in refused(backline, command)


# --- pgvector -------------------------------------------------------------------------------------


def test_pgvector_that_nobody_enabled(backline: Cli, bare_project: Project) -> None:
    with as_superuser(bare_project) as superuser:
        superuser.execute("drop extension vector")
    backline.environment["DATABASE_URL"] = bare_project.url
    said = refused(backline, "migrate")
    assert "dashboard (Database, Extensions)" in said
    assert "create extension vector" in said
    with as_superuser(bare_project) as superuser:
        superuser.execute("create extension vector with schema extensions")
    assert backline("migrate", "--json").json["applied"]


@pytest.mark.parametrize("schema", ["public", "Vektor Raum"])
def test_pgvector_in_another_schema(backline: Cli, bare_project: Project, schema: str) -> None:
    with as_superuser(bare_project) as superuser:
        superuser.execute("drop extension vector")
        superuser.execute(f'create schema if not exists "{schema}"')
        superuser.execute(f'grant usage on schema "{schema}" to public')
        superuser.execute(f'create extension vector with schema "{schema}"')
    documents(bare_project)
    backline.environment["DATABASE_URL"] = bare_project.url
    backline("migrate")
    backline("add", "documents", "--text", "{body}", "--model", "hash@8")
    assert backline("backfill", "documents", "--json").json["complete"]
    assert backline("verify", "documents", "--json").json["passed"]
    assert backline("search", "text 7", "-c", "documents", "--json").json["hits"]


@pytest.mark.parametrize("command", ["status", "backfill", "verify", "search"])
def test_pgvector_that_somebody_removed(backline: Cli, project: Project, command: str) -> None:
    with as_superuser(project) as superuser:
        superuser.execute("drop extension vector cascade")
    said = refused(backline, command, *(["muddy"] if command == "search" else []))
    assert "pgvector was dropped" in said


@pytest.mark.parametrize("command", ["backfill", "verify", "search"])
def test_a_column_that_somebody_dropped(backline: Cli, project: Project, command: str) -> None:
    documents(project)
    backline("add", "documents", "--text", "{body}", "--model", MODEL)
    project.execute("alter table documents drop column embedding")
    arguments = ["text 7", "-c"] if command == "search" else []
    said = refused(backline, command, *arguments, "documents")
    assert "documents.embedding is gone" in said and "backline add public.documents" in said


# --- who answers ----------------------------------------------------------------------------------


class Pooler(socketserver.ThreadingTCPServer):
    """Answers every login as a pooler does that will not serve it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__(("127.0.0.1", 0), Refusal)


class Refusal(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while True:
            length, code = struct.unpack("!II", self.rfile.read(8))
            self.rfile.read(length - 8)
            if code not in (80877103, 80877104):  # asks for TLS or GSS: not here
                break
            self.wfile.write(b"N")
        assert isinstance(self.server, Pooler)
        fields = f"SFATAL\0VFATAL\0CXX000\0M{self.server.said}\0\0".encode()
        self.wfile.write(b"E" + struct.pack("!I", len(fields) + 4) + fields)


@pytest.mark.parametrize(
    ("said", "kind", "remedy"),
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
def test_a_pooler_that_serves_no_one(
    backline: Cli, said: str, kind: str, remedy: str, command: str
) -> None:
    with Pooler(said) as pooler:
        threading.Thread(target=pooler.serve_forever, daemon=True).start()
        port = pooler.server_address[1]
        backline.environment["DATABASE_URL"] = f"postgresql://postgres.ref:hush@127.0.0.1:{port}/p"
        ended = backline(command, "--json", code=2)
        pooler.shutdown()
    assert ended.json["error"]["kind"] == kind
    assert remedy in ended.json["error"]["message"] and said in ended.json["error"]["message"]
    assert "hush" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [("secret", "SUPABASE_SECRET_KEY"), ("service_jwt", "SUPABASE_SECRET_KEY")],
)
def test_a_key_in_place_of_the_connection_string(
    backline: Cli, project: Project, kind: str, remedy: str
) -> None:
    key = getattr(project.keys, kind)
    backline.environment["DATABASE_URL"] = key
    ended = backline("backfill", "--json", code=2)
    assert remedy in ended.json["error"]["message"]
    assert key[12:] not in ended.out + ended.err


def test_a_password_that_breaks_the_url_is_not_shown(backline: Cli) -> None:
    for password in ("hu@sh", "hu/sh", "hu%sh"):
        backline.environment["DATABASE_URL"] = f"postgresql://u:{password}@127.0.0.1:1/postgres"
        ended = backline("status", "--json", code=2)
        assert "percent-encoded" in ended.json["error"]["message"]
        assert password not in ended.out + ended.err and "sh@" not in ended.out + ended.err
