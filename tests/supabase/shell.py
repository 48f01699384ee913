"""The command line as a user of a Supabase project runs it: with settings in the environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.provider import StandInProvider
from tests.supabase.function import provider_variables
from tests.supabase.inline import InlineCli
from tests.supabase.stack import Project


class Shell:
    """Runs `backline` in a folder; `output` collects everything that its commands print."""

    def __init__(self, project: Project, provider: StandInProvider, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.environment = {
            **project.environment,
            **provider_variables(provider.base_url, provider.api_key),
        }
        self.output = ""

    def start(self, *arguments: str, **variables: str | None) -> subprocess.Popen[str]:
        """Start a command as a process; a variable of None is unset."""
        return self._cli(variables).start(*arguments)

    def run(self, *arguments: str, code: int = 0, **variables: str | None) -> Any:
        """Run a command with --json; return its object or, for an error, the message."""
        outcome = self._cli(variables)(*arguments, "--json", code=None)
        self.output += outcome.out + outcome.err
        assert outcome.code == code, outcome.out + outcome.err
        result = json.loads(outcome.out)
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

    def _cli(self, variables: dict[str, str | None]) -> InlineCli:
        environment = {**self.environment, **variables}
        return InlineCli(
            self.folder, {name: value for name, value in environment.items() if value is not None}
        )
