"""The real Supabase CLI over a project, working in a copy of supabase/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.supabase.stack import ROOT, Project, require


@dataclass(frozen=True)
class Done:
    """How a command ended; `out` and `err` are what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class SupabaseCli:
    """`folder` holds a copy of the project's supabase/; `migrations` are those files."""

    program: Path
    folder: Path

    @classmethod
    def in_folder(cls, folder: Path) -> SupabaseCli:
        ignored = shutil.ignore_patterns(".temp", ".branches", "functions")
        shutil.copytree(ROOT / "supabase", folder / "supabase", ignore=ignored)
        return cls(require("supabase"), folder)

    @property
    def migrations(self) -> Path:
        return self.folder / "supabase" / "migrations"

    def __call__(self, project: Project, *arguments: str, code: int | None = 0) -> Done:
        """Run against a project's database; `code` is how it must end, None: in any way."""
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
        return self(project, "db", "push", "--yes", *options)
