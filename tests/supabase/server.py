"""A Backline server in a separate process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.supabase.processes import free_port, running, wait_until
from tests.supabase.stack import Project

API_KEY: Final = "an-api-key"


@contextmanager
def server_running(project: Project, **variables: str) -> Iterator[str]:
    """Run `backline serve` over the project's database; yields its address."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "DATABASE_URL": project.url,
        "BACKLINE_API_KEY": API_KEY,
        **variables,
    }
    command = [
        Path(sys.executable).with_name("backline"), "serve", "--no-worker", "--port", port,
    ]  # fmt: skip
    log = project.stack.folder / f"{project.name}-server.log"
    with running(command, log, env=environment) as process:
        wait_until(lambda: _responds(port), process, log)
        yield f"http://127.0.0.1:{port}"


def _responds(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
    except httpx.HTTPError:
        return False
