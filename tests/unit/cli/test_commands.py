"""The table of commands agrees with their modules, and start-up imports no more than it needs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from backline.cli.commands import COMMANDS, INCOMPLETE, command_line

HEAVY = {
    "dotenv", "fastapi", "httpx", "numpy", "openai", "openvino", "psycopg", "psycopg_pool",
    "pydantic", "starlette", "structlog", "supabase", "uvicorn",
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_quotes_the_first_line_of_the_commands_help(name: str) -> None:
    command = command_line().commands[name]
    assert inspect.cleandoc(command.help).splitlines()[0] == COMMANDS[name].summary


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_named_as_in_the_table(name: str) -> None:
    assert command_line().commands[name].name == name


def leaves(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from leaves(each, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", each


def test_every_command_says_what_its_exit_codes_mean() -> None:
    shown = {name: command.epilog for name, command in leaves(command_line())}
    assert all("Exit code 0: success. 1: " in epilog for epilog in shown.values())
    assert INCOMPLETE.keys() <= shown.keys()
    for name, meaning in INCOMPLETE.items():
        assert f" 1: {meaning}. 2: " in shown[name]


def modules_of(*arguments: str) -> set[str]:
    """Return the modules that `backline ARGUMENTS` has imported when it ends."""
    script = (
        "import sys; sys.argv = ['backline', *sys.argv[1:]]\n"
        "from backline.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_the_version_imports_the_standard_library_only() -> None:
    modules = modules_of("--version")
    assert not modules & (HEAVY | {"rich", "typer"})
    assert len(modules) < 160
    own = {name for name in modules if name.startswith("backline")}
    assert own == {"backline", "backline.cli", "backline.cli.streams"}


def test_the_overview_imports_no_command() -> None:
    modules = modules_of("--help")
    assert not modules & HEAVY
    assert len(modules) < 330
    own = {name for name in modules if name.startswith("backline.")}
    assert own == {
        "backline.cli", "backline.cli.commands", "backline.cli.entry", "backline.cli.output",
        "backline.cli.signals", "backline.cli.streams", "backline.errors",
    }  # fmt: skip


LATE_IMPORTS = """
import sys
from backline.cli.commands import load
for name in ("status", "verify", "search", "suggest", "index", "load", "add", "failures", "runs"):
    load(name)
import backline.embedders.local, backline.embedders.providers, backline.postgres.embedded
import backline.supabase.store
print("structlog" in sys.modules)
"""


def test_commands_without_a_worker_import_no_module_that_logs() -> None:
    """The log is configured before a command runs, and only for modules imported by then."""
    done = subprocess.run(
        [sys.executable, "-c", LATE_IMPORTS], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
