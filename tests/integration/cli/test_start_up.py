"""`status` imports nothing that it does not use; counted in modules, because time varies."""

from __future__ import annotations

import sys

from tests.integration.cli.conftest import Cli

FORBIDDEN = {
    "backline.embedders.base", "backline.embedders.local", "backline.server", "backline.supabase",
    "backline.worker.worker", "fastapi", "httpx", "numpy", "openai", "openvino", "starlette",
    "structlog", "supabase", "uvicorn",
}  # fmt: skip
LARGEST_NUMBER = 520
"""487 on Python 3.11, without the modules of the platform's own start-up."""

SCRIPT = """
import atexit, sys
from backline.cli import main
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
main()
"""


def test_status_imports_only_what_it_uses(cli: Cli, collection: str) -> None:
    outcome = cli("-c", SCRIPT, "status", "--json", program=sys.executable)
    assert len(outcome.json["collections"]) == 1
    modules = set(outcome.err.split())
    assert not modules & FORBIDDEN
    assert len(modules) < LARGEST_NUMBER
