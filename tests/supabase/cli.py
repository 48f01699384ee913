"""The real Supabase CLI over a project, working in a copy of supabase/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.supabase.processes import ROOT, require
from tests.supabase.stack import Project


@dataclass(frozen=True)
class Done:
    """The exit code and the output of a finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class SupabaseCli:
    """Runs the Supabase CLI in `folder`, which holds a copy of the repository's supabase/."""

    program: Path
    folder: Path

    @classmethod
    def in_folder(cls, folder: Path) -> SupabaseCli:
        """Copy supabase/ into a folder, and return a CLI that works there."""
        ignored = shutil.ignore_patterns(".temp", ".branches", "functions")
        shutil.copytree(ROOT / "supabase", folder / "supabase", ignore=ignored)
        return cls(require("supabase"), folder)

    @property
    def migrations(self) -> Path:
        """The folder of the copied migrations."""
        return self.folder / "supabase" / "migrations"

    def __call__(self, project: Project, *arguments: str, code: int | None = 0) -> Done:
        """Run against a project's database and require the exit code `code`; None accepts any."""
        environment = {
            **os.environ,
            "HOME": str(self.folder),
            "SUPABASE_TELEMETRY_DISABLED": "1",
            "DO_NOT_TRACK": "1",
        }
        done = subprocess.run(
            [self.program, *arguments, f"--remote={project.url}", "--workdir", self.folder],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if code is not None:
            assert done.returncode == code, done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def push(self, project: Project, *options: str) -> Done:
        """Push the migrations to a project's database."""
        return self(project, "db", "push", "--yes", *options)
