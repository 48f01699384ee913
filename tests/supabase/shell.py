"""The command line as a user of a Supabase project runs it: with settings in the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.provider import StandInProvider
from tests.supabase.function import provider_variables
from tests.supabase.stack import Project

BACKLINE: Final = Path(sys.executable).with_name("backline")


class Shell:
    """Runs `backline` in a folder; `output` collects everything that its commands print."""

    def __init__(self, project: Project, provider: StandInProvider, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            **project.environment,
            **provider_variables(provider.base_url, provider.api_key),
        }
        self.output = ""

    def start(self, *arguments: str, **variables: str | None) -> subprocess.Popen[str]:
        """Start a command; a variable of None is unset."""
        environment = {**self.environment, **variables}
        return subprocess.Popen(
            [BACKLINE, *arguments], cwd=self.folder, text=True,
            env={name: value for name, value in environment.items() if value is not None},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str, code: int = 0, **variables: str | None) -> Any:
        """Run a command with --json; return its object or, for an error, the message."""
        with self.start(*arguments, "--json", **variables) as process:
            output, log = process.communicate(timeout=100)
        self.output += output + log
        assert process.returncode == code, output + log
        result = json.loads(output)
        return result["error"]["message"] if "error" in result else result

    def make_table(self, name: str, bodies: Sequence[str]) -> None:
        """Make a table with rows and declare it in SQL, as the how-to describes."""
        self.project.execute(f"create table {name} (id int primary key, body text)")
        self.project.execute(f"grant select, update on {name} to service_role")
        self.project.execute(
            f"insert into {name} select n, t from unnest(%s::text[]) with ordinality u(t, n)",
            [list(bodies)],
        )
        self.project.execute(
            "select backline.add_collection(%s, %s, null, '{body}', 'embedding', "
            "'openai', 'text-embedding-3-small', 'v1', 8)",
            [name, f"public.{name}"],
        )

    def check_no_key_was_printed(self, *keys: str) -> None:
        """Assert that no command printed one of the keys."""
        for key in keys:
            assert key not in self.output, "a key was printed"
