"""A Supabase-like stack on this machine, without Docker.

    def test_something(project: Project) -> None:          # a new, migrated project for each test
        response = httpx.get(f"{project.api_url}/rest/v1/music_knowledge", headers=project.anon)

Fixtures (tests/supabase/fixtures.py)
    stack            session   one Postgres 18 with Supabase's roles; makes projects in some 50 ms
    project          test      migrated, empty `music_knowledge`
    seeded_project   test      migrated and seeded (292 entries, no vector)
    bare_project     test      a new Supabase project, without migrations
    reading_project  session   seeded, shared by tests that only read

Project
    .url             DATABASE_URL: postgresql:// as role `postgres` (no superuser), over TCP
    .admin_url       the same as superuser supabase_admin, for what the platform itself does
    .pooler_url      .url through a real PgBouncer in transaction mode
    .session_pooler_url   .url through a PgBouncer in session mode
    .api_url         SUPABASE_URL; the first use starts PostgREST and the gateway (0.2 s)
    .keys            .publishable .secret .anon_jwt .service_jwt .user_jwt() .jwt(role, ttl)
    .anon .service   request headers with the publishable or secret key
    .environment     SUPABASE_URL and both keys, as environment variables
    .gateway         scripts faults and records requests; see tests/supabase/gateway.py
                       .fail_next(503, times=2, path="/rest/v1/rpc", headers={"Retry-After": "1"})
                       .cut_next(after=True)   the request is handled and its response is lost
                       .latency = 0.3   .paused = True   .seen   .reset()
                       .functions["upsert-embeddings"] = Function(port, verify_jwt=False)
    .execute(sql, params)   executes as `postgres`, commits, returns the rows as tuples
    .wait_for_schema()      waits until PostgREST has read the present schema

Programs (processes.py): find("deno" | "supabase" | "postgrest" | "pgbouncer") returns the path of a
program that `make tools` put into .tools, or None. require(...) skips the test if the program is
missing, or fails it if NOTHING_SKIPPED is set, as .ci/run does.

Several stacks can run at once: each listens on free ports of 127.0.0.1 and has its own temporary
folder. Its processes end with the session, even if the test process is killed.
"""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from psycopg import sql

from tests.supabase.gateway import Gateway
from tests.supabase.keys import Keys
from tests.supabase.processes import RESPONSE_TIMEOUT_S, ROOT, require
from tests.supabase.programs import (
    PoolMode,
    pgbouncer_running,
    postgres_running,
    postgrest_running,
    server_folder,
)

HERE: Final = Path(__file__).parent


@dataclass
class Stack:
    """One Postgres server with Supabase's roles, and the projects on it."""

    folder: Path
    port: int
    keys: Keys
    closing: ExitStack
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str, user: str = "postgres", port: int | None = None) -> str:
        """Return the URL of a database."""
        return f"postgresql://{user}:postgres@127.0.0.1:{port or self.port}/{database}"

    @contextmanager
    def project(self, template: str = "migrated") -> Iterator[Project]:
        """Make a project from the template bare, migrated or seeded, and drop it at the end."""
        name = f"project_{next(self._numbers)}"
        self._admin(_CREATE, name, getattr(self, template))
        project = Project(self, name)
        try:
            yield project
        finally:
            project.stop()
            self._admin(sql.SQL("drop database {} with (force)"), name)

    @cached_property
    def bare(self) -> str:
        """The database of a new Supabase project."""
        self._admin(_CREATE, "bare", "template1")
        _run_file(self.url("bare", "supabase_admin"), HERE / "project.sql")
        return "bare"

    @cached_property
    def migrated(self) -> str:
        """A database with Backline's migrations."""
        self._admin(_CREATE, "migrated", self.bare)
        done = subprocess.run(
            [Path(sys.executable).with_name("backline"), "migrate", "--music"],
            env={**os.environ, "DATABASE_URL": self.url("migrated")},
            cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return "migrated"

    @cached_property
    def seeded(self) -> str:
        """A migrated database with the knowledge base of the repository."""
        self._admin(_CREATE, "seeded", self.migrated)
        _run_file(self.url("seeded"), ROOT / "supabase" / "seed.sql")
        return "seeded"

    @cached_property
    def pooler_port(self) -> int:
        """The port of a PgBouncer in transaction mode with three server connections a database."""
        return self._pgbouncer("transaction")

    @cached_property
    def session_pooler_port(self) -> int:
        """The port of a PgBouncer in session mode with twenty server connections a database."""
        return self._pgbouncer("session")

    @cached_property
    def rotating_pooler_port(self) -> int:
        """The port of a PgBouncer in transaction mode that rotates its server connections."""
        return self._pgbouncer("transaction", round_robin=1)

    def _pgbouncer(self, mode: PoolMode, *, round_robin: int = 0) -> int:
        """Run a PgBouncer until the end of the stack; return its port."""
        pooler = pgbouncer_running(
            require("pgbouncer"), self.folder, self.port, mode, round_robin=round_robin
        )
        return self.closing.enter_context(pooler)

    def _admin(self, statement: sql.SQL, *names: str) -> None:
        with psycopg.connect(self.url("postgres", "supabase_admin"), autocommit=True) as connection:
            connection.execute(statement.format(*map(sql.Identifier, names)))


_CREATE: Final = sql.SQL("create database {} owner postgres template {} strategy file_copy")


def _run_file(url: str, file: Path) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(file.read_bytes())


@dataclass
class Project:
    """One Supabase project: a database, and its API and pooler, which start on first use."""

    stack: Stack
    name: str
    _closing: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        """The connection string of role `postgres`."""
        return self.stack.url(self.name)

    @property
    def admin_url(self) -> str:
        return self.stack.url(self.name, "supabase_admin")

    @property
    def pooler_url(self) -> str:
        return self.stack.url(self.name, port=self.stack.pooler_port)

    @property
    def session_pooler_url(self) -> str:
        return self.stack.url(self.name, port=self.stack.session_pooler_port)

    @property
    def keys(self) -> Keys:
        return self.stack.keys

    @property
    def anon(self) -> dict[str, str]:
        return {"apikey": self.keys.publishable}

    @property
    def service(self) -> dict[str, str]:
        return {"apikey": self.keys.secret}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SUPABASE_URL": self.api_url,
            "SUPABASE_PUBLISHABLE_KEY": self.keys.publishable,
            "SUPABASE_SECRET_KEY": self.keys.secret,
        }

    @cached_property
    def gateway(self) -> Gateway:
        """The gateway, in front of PostgREST."""
        postgrest = postgrest_running(
            require("postgrest"),
            self.stack.url(self.name, "authenticator"),
            self.keys.jwt_secret,
            self.stack.folder / f"{self.name}-postgrest.log",
        )
        rest_port = self._closing.enter_context(postgrest)
        return self._closing.enter_context(Gateway(self.keys, rest_port))

    @property
    def api_url(self) -> str:
        return self.gateway.url

    def execute(self, statement: Any, params: Sequence[Any] = ()) -> list[Any]:
        """Execute a statement as `postgres` and commit; return the rows as tuples."""
        with psycopg.connect(self.url, autocommit=True, prepare_threshold=None) as connection:
            cursor = connection.execute(statement, params)
            return cursor.fetchall() if cursor.description else []

    def wait_for_schema(self) -> None:
        """Wait until PostgREST serves a function that this method has just created.

        A table would prove nothing: PostgREST 12 queries Postgres for tables that it has not read.
        """
        marker = f"marker_{secrets.token_hex(6)}"
        self.execute(f"create function public.{marker}() returns int language sql return 1")
        self.execute(f"grant execute on function public.{marker}() to service_role")
        deadline = time.monotonic() + RESPONSE_TIMEOUT_S
        while (response := self._call(marker)).status_code != 200:
            assert time.monotonic() < deadline, (
                f"PostgREST does not read its schema: {response.text}"
            )
            time.sleep(0.02)
        self.execute(f"drop function public.{marker}()")

    def _call(self, function: str) -> httpx.Response:
        url = f"{self.api_url}/rest/v1/rpc/{function}"
        return httpx.post(
            url, headers=self.service, json={}, trust_env=False, timeout=RESPONSE_TIMEOUT_S
        )

    def stop(self) -> None:
        """Stop the project's programs; its database remains."""
        self._closing.close()


@contextmanager
def stack_running() -> Iterator[Stack]:
    """Start a stack; at the end stop its processes and remove its folder."""
    with server_folder() as folder, postgres_running(folder) as port, ExitStack() as programs:
        stack = Stack(folder, port, Keys(), programs)
        _run_file(stack.url("postgres", "supabase_admin"), HERE / "cluster.sql")
        yield stack
